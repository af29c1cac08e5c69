//! From the guest to the network.

use std::os::fd::AsFd;

use super::{NAME, Wire, in_namespace, ip, probe, wait_readable};
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Sample, TX_AREA, asking, kinds, plain, tagged, with_tag};
use crate::endpoint::{Endpoint, Offloads, Queue, TxBatch, TxPacket, TxStatus};
use crate::memory::tests::{HIGH, LOW, NOWHERE, READ_ONLY, UNREACHABLE, memfd, segment};
use crate::memory::{PAGE_SIZE, Span};

#[test]
fn a_frame_leaves_as_it_is() {
    in_namespace(|| {
        let mut wire = Wire::new();
        for payload in [0, 1, 100, 1471, 1472] {
            let frame = Sample::new(IpVersion::V4, Transport::Udp, payload).frame();
            assert_eq!(wire.send(&frame, plain()), TxStatus::Sent);
            assert_eq!(wire.peer.receive(), frame);
        }
    });
}

#[test]
fn a_frame_may_lie_in_many_places() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let sample = Sample::new(IpVersion::V4, Transport::Tcp, 1001);
        let mut frame = sample.without_checksum();
        frame.truncate(14 + 20 + 20 + 1001);
        let length = frame.len() as u32;
        let cut = [
            segment(LOW + 3, 13),
            segment(HIGH - 100, 301),
            segment(LOW + 100, 1),
            segment(TX_AREA + 4000, length - 315),
        ];
        let Wire {
            tap, guest, peer, ..
        } = &mut wire;
        let status = guest.send_cut(tap, &frame, plain(), &cut);
        assert_eq!(status, TxStatus::Sent);
        assert_eq!(peer.receive(), frame);
        let status = guest.send_cut(tap, &frame, sample.checksum_offload(), &cut);
        assert_eq!(status, TxStatus::Sent);
        assert_eq!(peer.receive(), sample.frame());
    });
}

#[test]
fn the_kernel_completes_checksums() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let mut sent = 0;
        for (version, transport) in kinds() {
            for payload in [1, 2, 255, 1000, 1001] {
                let mut sample = Sample::new(version, transport, payload);
                for (tags, ip_options) in [(0, 0), (1, 0), (2, 8), (0, 24)] {
                    sample.tags = tags;
                    sample.ip_options = ip_options;
                    let packet = sample.checksum_offload();
                    let frame = sample.without_checksum();
                    assert_eq!(wire.send(&frame, packet), TxStatus::Sent);
                    assert_eq!(wire.peer.receive(), sample.frame(), "{sample:?}");
                    sent += 1;
                }
            }
        }
        let counters = &wire.tap.counters.transmit;
        assert_eq!(counters.checksum_offloads, sent);
    });
}

#[test]
fn the_kernel_cuts_segments() {
    in_namespace(|| {
        let mut wire = Wire::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            for (payload, size) in [(5001, 1000), (1429, 1428), (60_000, 1400), (100, 8)] {
                for (tags, insert, cwr) in [(0, None, true), (1, None, false), (0, Some(33), false)]
                {
                    let mut sample = Sample::new(version, Transport::Tcp, payload);
                    sample.tags = tags;
                    sample.cwr = cwr;
                    sample.tcp_options = 12;
                    check_segments(&mut wire, &sample, size, insert);
                }
            }
        }
        assert_eq!(wire.tap.counters.transmit.segmentation_offloads, 24);
    });
}

fn check_segments(wire: &mut Wire, sample: &Sample, size: u16, insert: Option<u16>) {
    let mut packet = sample.segmentation_offload(size);
    if let Some(tci) = insert {
        packet = tagged(packet, tci);
    }
    assert_eq!(wire.send(&sample.unsegmented(), packet), TxStatus::Sent);
    for start in (0..sample.payload.len()).step_by(size.into()) {
        let length = usize::from(size).min(sample.payload.len() - start);
        let mut expected = sample.segment_of(start, length, size.into());
        if let Some(tci) = insert {
            expected = with_tag(&expected, tci);
        }
        assert_eq!(wire.peer.receive(), expected, "at {start} of {size}");
    }
}

/// One call of `transmit`, with more packets than one system call takes.
#[test]
fn packets_of_a_batch_leave_in_order_and_each_has_its_status() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let (mut packets, mut segments, mut expected) = (vec![], vec![], vec![]);
        for index in 0..100 {
            let at = TX_AREA + 2048 * index;
            let mut sample = Sample::new(IpVersion::V4, Transport::Udp, 10 * index as usize);
            sample.tags = usize::from(index % 3 == 0);
            let (mut frame, mut packet) = (sample.frame(), plain());
            if index % 5 == 0 {
                frame = sample.without_checksum();
                packet = sample.checksum_offload();
            }
            let half = frame.len() as u32 / 2;
            let mut parts = [
                segment(at, half),
                segment(at + u64::from(half), frame.len() as u32 - half),
            ];
            wire.guest.memory.write(at, &frame).unwrap();
            if index % 7 == 0 {
                parts[1].address = NOWHERE;
                expected.push(TxStatus::MemoryFault);
            } else {
                expected.push(TxStatus::Sent);
            }
            packets.push(TxPacket {
                segments: 2,
                ..packet
            });
            segments.extend(parts);
        }
        let batch = TxBatch::new(&packets, &segments).unwrap();
        let mut status = vec![TxStatus::TooLong];
        wire.tap.transmit(&mut wire.guest.io(), batch, &mut status);
        assert_eq!(status[1..], expected);
        for index in (0..100).filter(|index| index % 7 != 0) {
            let mut sample = Sample::new(IpVersion::V4, Transport::Udp, 10 * index);
            sample.tags = usize::from(index % 3 == 0);
            assert_eq!(wire.peer.receive(), sample.frame(), "packet {index}");
        }
    });
}

#[test]
fn tags_are_inserted() {
    in_namespace(|| {
        let mut wire = Wire::new();
        for (version, transport) in kinds() {
            let sample = Sample::new(version, transport, 1400);
            let tci = 0x7005;
            let expected = with_tag(&sample.frame(), tci);
            let status = wire.send(&sample.frame(), tagged(plain(), tci));
            assert_eq!(status, TxStatus::Sent);
            assert_eq!(wire.peer.receive(), expected);
            let status = wire.send(
                &sample.without_checksum(),
                tagged(sample.checksum_offload(), tci),
            );
            assert_eq!(status, TxStatus::Sent);
            assert_eq!(wire.peer.receive(), expected);
        }
        assert_eq!(wire.tap.counters.transmit.tags_inserted, 8);
    });
}

#[test]
fn wrong_packets_are_refused_and_counted() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let Wire {
            tap, guest, peer, ..
        } = &mut wire;
        let frame = Sample::new(IpVersion::V4, Transport::Udp, 100).frame();
        let mut refuse = |packet, parts: &[_]| guest.send_cut(tap, &frame, packet, parts);
        let whole = segment(TX_AREA, frame.len() as u32);
        for at in [NOWHERE, UNREACHABLE, u64::MAX - 3] {
            let status = refuse(plain(), &[whole, segment(at, 60)]);
            assert_eq!(status, TxStatus::MemoryFault);
            let status = refuse(tagged(plain(), 1), &[whole, segment(at, 60)]);
            assert_eq!(status, TxStatus::MemoryFault);
        }
        assert_eq!(
            refuse(plain(), &[segment(TX_AREA, 13)]),
            TxStatus::BadHeaders
        );
        let tcp = asking(Offloads::TCP_CHECKSUM, 0);
        assert_eq!(refuse(tcp, &[whole]), TxStatus::BadHeaders);
        assert_eq!(
            refuse(plain(), &[segment(TX_AREA, 1515)]),
            TxStatus::TooLong
        );
        let endless = [segment(TX_AREA, u32::MAX), segment(TX_AREA, u32::MAX)];
        assert_eq!(refuse(plain(), &endless), TxStatus::TooLong);
        let counters = &tap.counters.transmit;
        assert_eq!((counters.memory_faults, counters.bad_headers), (6, 2));
        assert_eq!(counters.too_long, 2);
        // Read-only memory may be sent. It is all zeros, which a bridge does not accept as a
        // frame.
        let status = guest.send_cut(tap, &[], plain(), &[segment(READ_ONLY, 60)]);
        assert_eq!(status, TxStatus::Sent);
        // None of these packets left.
        Span::new([whole]).write(&guest.memory, &frame).unwrap();
        assert_eq!(guest.send(tap, &frame, plain()), TxStatus::Sent);
        assert_eq!(peer.receive(), frame);
    });
}

/// The kernel detects it, since it reads the pages. The interface continues to
/// work.
#[test]
fn pages_that_are_gone_are_a_memory_fault_of_their_packets() {
    const GONE: u64 = 0x500_0000;
    const SIZE: u16 = 1400;
    in_namespace(|| {
        let mut wire = Wire::new();
        let sample = Sample::new(IpVersion::V4, Transport::Tcp, 20_000);
        let (frame, mut packet) = (sample.unsegmented(), sample.segmentation_offload(SIZE));
        packet.segments = 2;
        // The host copies the beginning, which must be mapped.
        let head = PAGE_SIZE as u32;
        let rest = frame.len() as u32 - head;
        let rests = [TX_AREA + PAGE_SIZE, GONE];
        let file = memfd(8 * PAGE_SIZE);
        let memory = &mut wire.guest.memory;
        let shared = file.try_clone().unwrap();
        memory.map(GONE, 8 * PAGE_SIZE, shared, 0, true).unwrap();
        memory.write(TX_AREA, &frame).unwrap();
        memory.write(GONE, &frame[head as usize..]).unwrap();
        file.set_len(0).unwrap();

        let packets = [packet; 8];
        let segments: Vec<_> = (0..packets.len())
            .flat_map(|index| [segment(TX_AREA, head), segment(rests[index % 2], rest)])
            .collect();
        let batch = TxBatch::new(&packets, &segments).unwrap();
        let mut status = Vec::new();
        wire.tap.transmit(&mut wire.guest.io(), batch, &mut status);
        assert_eq!(status, [TxStatus::Sent, TxStatus::MemoryFault].repeat(4));
        let counters = &wire.tap.counters.transmit;
        assert_eq!((counters.memory_faults, counters.dropped_error), (4, 0));
        assert_eq!(wire.endpoint.inspect()["link"], "up");
        for _ in 0..4 {
            for start in (0..sample.payload.len()).step_by(SIZE.into()) {
                let length = usize::from(SIZE).min(sample.payload.len() - start);
                let expected = sample.segment_of(start, length, SIZE.into());
                assert_eq!(wire.peer.receive(), expected);
            }
        }
    });
}

#[test]
fn a_tagged_frame_may_be_four_bytes_longer() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let mut sample = Sample::new(IpVersion::V4, Transport::Udp, 1472);
        sample.tags = 1;
        let mut frame = sample.frame();
        assert_eq!(frame.len(), 1518);
        assert_eq!(wire.send(&frame, plain()), TxStatus::Sent);
        assert_eq!(wire.peer.receive(), frame);
        frame.push(0);
        assert_eq!(wire.send(&frame, plain()), TxStatus::TooLong);
    });
}

#[test]
fn an_interface_that_is_down_drops() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let frame = Sample::new(IpVersion::V4, Transport::Udp, 100).frame();
        ip(&format!("link set {NAME} down"));
        assert_eq!(wire.endpoint.inspect()["link"], "up");
        for _ in 0..3 {
            assert_eq!(wire.send(&frame, plain()), TxStatus::Dropped);
        }
        assert_eq!(wire.tap.counters.transmit.dropped_down, 3);
        assert_eq!(wire.endpoint.inspect()["link"], "down");
        wire.guest.post();
        assert!(!wire.tap.receive(&mut wire.guest.io()));
        ip(&format!("link set {NAME} up"));
        assert_eq!(wire.send(&probe(), plain()), TxStatus::Sent);
        assert_eq!(wire.endpoint.inspect()["link"], "up");
    });
}

#[test]
fn a_deleted_interface_drops() {
    in_namespace(|| {
        let mut wire = Wire::new();
        ip(&format!("link delete {NAME}"));
        assert_eq!(wire.send(&probe(), plain()), TxStatus::Dropped);
        assert_eq!(wire.endpoint.inspect()["link"], "gone");
        wire.guest.post();
        assert!(!wire.tap.receive(&mut wire.guest.io()));
        assert!(wire.guest.received().is_empty());
        // A polling thread may be woken for it, but not forever.
        let now = std::time::Instant::now();
        wait_readable(wire.tap.readiness().unwrap().as_fd(), now);
    });
}
