//! The import `transmit`, called with the batch where it is in memory.
//!
//! The generated binding copies a list whose records hold flags to a new
//! allocation at every call; this one passes the list's address.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::mem::offset_of;

use crate::platform::{Offloads, Segment, TransmitResult, TxPacket, TxStatus};

/// `transmit-result`, as the canonical ABI lays it out.
#[repr(C)]
#[derive(Default)]
struct RawResult {
    statuses: [usize; 2],
    multicast_packets: u32,
    multicast_bytes: u64,
    broadcast_packets: u32,
    broadcast_bytes: u64,
}

const _: () = {
    assert!(size_of::<TxPacket>() == 16 && align_of::<TxPacket>() == 4);
    assert!(offset_of!(TxPacket, offloads) == 12 && size_of::<Offloads>() == 1);
    assert!(size_of::<Segment>() == 16 && align_of::<Segment>() == 8);
    assert!(size_of::<RawResult>() == 40);
};

#[link(wasm_import_module = "manatee:device/packet-endpoint@0.2.0")]
#[allow(
    improper_ctypes,
    reason = "generated flags are one byte, as is asserted above, and are passed by address"
)]
unsafe extern "C" {
    #[link_name = "transmit"]
    fn import(
        port: u32,
        queue: u32,
        packets: *const TxPacket,
        packet_count: usize,
        segments: *const Segment,
        segment_count: usize,
        result: *mut RawResult,
    );
}

/// Hands packets over.
pub fn transmit(
    port: u32,
    queue: u32,
    packets: &[TxPacket],
    segments: &[Segment],
) -> TransmitResult {
    let mut result = RawResult::default();
    // SAFETY: the import's type is that of the WIT world, and both lists and
    // the result are laid out as the canonical ABI says.
    unsafe {
        import(
            port,
            queue,
            packets.as_ptr(),
            packets.len(),
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

fn statuses([address, length]: [usize; 2]) -> Vec<TxStatus> {
    if length == 0 {
        return Vec::new();
    }
    // SAFETY: the host wrote `length` bytes to memory from our allocator.
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
