//! The import `transmit`, called with the batch as it lies in memory.
//!
//! The generated binding copies a list whose records hold flags to a new
//! allocation at every call; this one keeps it.

#![allow(unsafe_code)]

use alloc::vec::Vec;

use crate::platform::{Segment, TransmitResult, TxPacket, TxStatus};

/// `tx-packet`, as the canonical ABI lays it out.
#[repr(C)]
struct Record {
    id: u32,
    segments: u16,
    l4_offset: u16,
    segment_size: u16,
    vlan_tci: u16,
    offloads: u8,
}

/// `transmit-result`, likewise.
#[repr(C)]
#[derive(Default)]
struct RawResult {
    statuses: (usize, usize),
    multicast_packets: u32,
    multicast_bytes: u64,
    broadcast_packets: u32,
    broadcast_bytes: u64,
}

const _: () = {
    assert!(size_of::<Record>() == 16 && align_of::<Record>() == 4);
    assert!(size_of::<Segment>() == 16 && align_of::<Segment>() == 8);
    assert!(size_of::<RawResult>() == 40);
};

#[link(wasm_import_module = "manatee:device/packet-endpoint@0.1.0")]
unsafe extern "C" {
    fn transmit(
        port: u32,
        queue: u32,
        packets: *const Record,
        packet_count: usize,
        segments: *const Segment,
        segment_count: usize,
        result: *mut RawResult,
    );
}

/// A batch on its way out; keeps its allocation.
#[derive(Default)]
pub struct Batch {
    records: Vec<Record>,
}

impl Batch {
    /// Hands packets over.
    pub fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        self.records.clear();
        self.records.extend(packets.iter().map(|packet| Record {
            id: packet.id,
            segments: packet.segments,
            l4_offset: packet.l4_offset,
            segment_size: packet.segment_size,
            vlan_tci: packet.vlan_tci,
            offloads: packet.offloads.bits(),
        }));
        let mut result = RawResult::default();
        // SAFETY: the import's type is that of the WIT world, and both lists
        // and the result are laid out as the canonical ABI says.
        unsafe {
            transmit(
                port,
                queue,
                self.records.as_ptr(),
                self.records.len(),
                segments.as_ptr(),
                segments.len(),
                &raw mut result,
            );
        }
        TransmitResult {
            statuses: statuses(result.statuses),
            multicast: (result.multicast_packets, result.multicast_bytes),
            broadcast: (result.broadcast_packets, result.broadcast_bytes),
        }
    }
}

fn statuses((address, length): (usize, usize)) -> Vec<TxStatus> {
    if length == 0 {
        return Vec::new();
    }
    // SAFETY: the host filled `length` bytes that it had our allocator give it.
    let bytes = unsafe { Vec::from_raw_parts(address as *mut u8, length, length) };
    bytes.into_iter().map(status).collect()
}

fn status(discriminant: u8) -> TxStatus {
    match discriminant {
        0 => TxStatus::Sent,
        1 => TxStatus::Pending,
        2 => TxStatus::Dropped,
        3 => TxStatus::MemoryFault,
        4 => TxStatus::TooLong,
        _ => TxStatus::BadHeaders,
    }
}
