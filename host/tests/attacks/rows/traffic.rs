//! Malformed packets, buffers and vectors.

use manatee::endpoint::{Loopback, Null};

use super::{Row, row};
use crate::case::{Case, MEMORY, Victim};
use crate::hostile::{ANSWER, OWN};

pub const ROWS: &[Row] = &[
    row("packets whose segments are everywhere", segments_everywhere),
    row("packets that do not add up", uneven),
    row("packets with every offload and odd offsets", odd_offloads),
    row("packets of the longest kind", longest),
    row("the same id for everything", same_ids),
    row("vectors beyond the table", vectors),
    row("buffers in memory that is not there", buffers_nowhere),
    row("traffic without bus mastering", no_master),
];

/// A packet's id, number of segments, layer-4 offset, segment size, tag and offloads.
type Packet = (u32, u16, u16, u16, u16, u8);
/// A segment's address and length.
type Segment = (u64, u32);

fn bytes(data: impl IntoIterator<Item = u8>) -> String {
    data.into_iter()
        .map(|byte| format!("\\{byte:02x}"))
        .collect()
}

/// Returns data segments with packets at [`OWN`] and their segments 8 KiB after it.
fn data(packets: &[Packet], segments: &[Segment]) -> String {
    let packets = packets.iter().flat_map(|packet| {
        let (id, segments, l4, size, tag, offloads) = *packet;
        let mut bytes = id.to_le_bytes().to_vec();
        for half in [segments, l4, size, tag] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend([offloads, 0, 0, 0]);
        bytes
    });
    let segments = segments.iter().flat_map(|(address, length)| {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    });
    format!(
        "(data (i32.const {OWN}) \"{}\")(data (i32.const {}) \"{}\")",
        bytes(packets),
        OWN + 8192,
        bytes(segments)
    )
}

fn transmits(case: &Case, packets: &[Packet], segments: &[Segment], null: bool) -> Victim {
    let body = format!(
        "i32.const 0 i32.const 0 i32.const {OWN} i32.const {} i32.const {} i32.const {}
         i32.const {ANSWER} call $transmit i32.const 0",
        packets.len(),
        OWN + 8192,
        segments.len()
    );
    // The address and length of the statuses.
    let read = format!("i32.const {ANSWER} i64.load");
    let hostile = case
        .hostile()
        .fields(data(packets, segments))
        .export("write-register", body)
        .export("read-register", read);
    let endpoint: Box<dyn manatee::endpoint::Endpoint> = if null {
        Box::new(Null::new())
    } else {
        Box::new(Loopback::new())
    };
    let victim = case.try_victim(&hostile, case.limits(), endpoint);
    let victim = victim.expect("the component is accepted");
    victim.poke();
    victim
}

fn segments_everywhere(case: &Case) {
    let places: [Segment; 12] = [
        (0, 0),
        (0, u32::MAX),
        (MEMORY - 1, 64),
        (MEMORY, 64),
        (MEMORY - 64, 64),
        (u64::MAX, 1),
        (u64::MAX - 63, 64),
        (u64::MAX - 62, 64),
        (1 << 63, 1 << 31),
        (0xfee0_0000, 64),
        (1, 64),
        (MEMORY - 4096, 4097),
    ];
    for null in [false, true] {
        for place in places {
            let victim = transmits(case, &[(1, 1, 0, 0, 0, 0)], &[place], null);
            victim.runs();
        }
        let packets: Vec<Packet> = (0..12).map(|id| (id, 1, 0, 0, 0, 0)).collect();
        transmits(case, &packets, &places, null).runs();
        transmits(case, &[(1, 12, 0, 0, 0, 0)], &places, null).runs();
    }
}

fn uneven(case: &Case) {
    let two: [Segment; 2] = [(0, 64), (64, 64)];
    let batches: [&[Packet]; 5] = [
        &[(1, 0, 0, 0, 0, 0)],
        &[(1, 1, 0, 0, 0, 0)],
        &[(1, 3, 0, 0, 0, 0)],
        &[(1, 2, 0, 0, 0, 0), (2, 0, 0, 0, 0, 0)],
        &[(1, u16::MAX, 0, 0, 0, 0), (2, 3, 0, 0, 0, 0)],
    ];
    for packets in batches {
        let victim = transmits(case, packets, &two, true);
        victim.is_ended(&["segments"]);
    }
}

fn odd_offloads(case: &Case) {
    for first in (0..=u8::MAX).step_by(32) {
        let mut packets: Vec<Packet> = Vec::new();
        for offloads in first..=first + 31 {
            let offsets = [0, 1, 13, 14, 34, 63, 64, 65, u16::MAX].into_iter();
            let sizes = [0, 1, 536, u16::MAX].into_iter().cycle();
            packets.extend(
                offsets
                    .zip(sizes)
                    .map(|(l4, size)| (1, 1, l4, size, 0xffff, offloads)),
            );
        }
        let segments = vec![(0x1000, 64); packets.len()];
        for null in [false, true] {
            transmits(case, &packets, &segments, null).runs();
        }
    }
}

/// Packets far longer than any valid one, all of it in guest memory.
fn longest(case: &Case) {
    let segments = [(0, MEMORY as u32); 500];
    for null in [false, true] {
        let victim = transmits(case, &[(1, 500, 0, 0, 0, 0)], &segments, null);
        victim.runs();
        let victim = transmits(case, &[(1, 500, 0, 0, 0, 0)], &[(0, 1); 500], null);
        victim.runs();
    }
}

fn same_ids(case: &Case) {
    let packets = [(7, 1, 0, 0, 0, 0); 64];
    let victim = transmits(case, &packets, &[(0, 64); 64], false);
    for _ in 0..100 {
        victim.poke();
    }
    victim.runs();
}

fn vectors(case: &Case) {
    let hostile = |list: &str, count: u32| {
        case.hostile()
            .fields(format!("(data (i32.const {OWN}) \"{list}\")"))
            .export(
                "write-register",
                format!("i32.const {OWN} i32.const {count} call $raise i32.const 0"),
            )
    };
    // They are ignored, as the contract says.
    let victim = case.victim(&hostile("\\ff\\ff\\41\\00\\00\\80", 3));
    victim.poke();
    victim.runs();
    assert_eq!(victim.device.inspect()["runtime"]["interrupts_raised"], 0);
    // A list longer than the table names a vector twice.
    let victim = case.victim(&hostile("", 66));
    victim.poke();
    victim.is_ended(&["65"]);
}

fn buffers_nowhere(case: &Case) {
    let (packet, buffer, from, to) = (OWN, OWN + 32, OWN + 64, OWN + 96);
    for (address, length) in [
        (u64::MAX, 64_u32),
        (MEMORY, 64),
        (MEMORY - 1, 2),
        (0, u32::MAX),
        (0, 0),
    ] {
        let segment: Vec<u8> = address
            .to_le_bytes()
            .into_iter()
            .chain(length.to_le_bytes())
            .collect();
        let hostile = case
            .hostile()
            .fields(format!(
                "(global $count (mut i64) (i64.const 0))
                 (data (i32.const {packet}) \"\\07\\00\\00\\00\\01\\00\")
                 (data (i32.const {buffer}) \"\\09\\00\\00\\00\\01\\00\")
                 (data (i32.const {from}) \"\\00\\10\\00\\00\\00\\00\\00\\00\\40\")
                 (data (i32.const {to}) \"{}\")",
                bytes(segment)
            ))
            .export(
                "write-register",
                format!(
                    "i32.const 0 i32.const 0 i32.const {buffer} i32.const 1
                     i32.const {to} i32.const 1 call $post-receive drop
                     i32.const 0 i32.const 0 i32.const {packet} i32.const 1
                     i32.const {from} i32.const 1 i32.const {ANSWER} call $transmit
                     i32.const 0"
                ),
            )
            .export(
                "received",
                "global.get $count local.get 3 i64.extend_i32_u i64.add global.set $count
                 i32.const 0",
            )
            .export("read-register", "global.get $count");
        let victim = case.victim(&hostile);
        victim.poke();
        // The buffer is returned with a fault, or with as much as fitted.
        assert_eq!(victim.read(0), 1);
        victim.runs();
    }
}

fn no_master(case: &Case) {
    let (packet, from) = (OWN, OWN + 64);
    let hostile = case
        .hostile()
        .fields(format!(
            "(data (i32.const {packet}) \"\\07\\00\\00\\00\\01\\00\")
             (data (i32.const {from}) \"\\00\\10\\00\\00\\00\\00\\00\\00\\40\")"
        ))
        .export(
            "write-register",
            format!(
                "i64.const 64 i32.const {from} i32.const 8 i32.const {} call $write
                 i32.const {OWN} i32.const 1 call $raise
                 i32.const 0 i32.const 0 i32.const {packet} i32.const 1
                 i32.const {from} i32.const 1 i32.const {ANSWER} call $transmit
                 i32.const 0",
                ANSWER + 64
            ),
        )
        .export(
            "read-register",
            format!("i32.const {} i64.load16_u", ANSWER + 64),
        );
    let victim = case.victim(&hostile);
    victim.device.config_write(4, &2_u16.to_le_bytes());
    victim.poke();
    // The error `unmapped`.
    assert_eq!(victim.read(0), 1);
    assert_eq!(victim.guest(64, 8), [0; 8]);
    assert_eq!(victim.vectors.count(), 0);
    victim.be_master();
    victim.poke();
    assert_eq!(victim.read(0), 0);
    assert_ne!(victim.guest(64, 8), [0; 8]);
    victim.runs();
}
