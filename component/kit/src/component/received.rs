//! The export `received`, which uses the packets where they are in memory.
//!
//! The generated binding copies a list whose records hold flags to a new
//! allocation at every call.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::mem::offset_of;

use super::host::Exported;
use crate::platform::{RxFlags, RxPacket};

const _: () = {
    assert!(size_of::<RxPacket>() == 16 && align_of::<RxPacket>() == 4);
    assert!(offset_of!(RxPacket, length) == 4 && offset_of!(RxPacket, vlan_tci) == 8);
    assert!(offset_of!(RxPacket, hash) == 12);
    assert!(offset_of!(RxPacket, flags) == 10 && size_of::<RxFlags>() == 2);
};

/// Implements the export, for [`export_adapter`](crate::export_adapter).
///
/// # Safety
///
/// `packets` points to `count` packets in the canonical ABI's layout, which the
/// host wrote to memory from this instance's allocator.
pub unsafe fn received<A: Exported>(
    port: u32,
    queue: u32,
    packets: *mut RxPacket,
    count: usize,
) -> u32 {
    let packets = if count == 0 {
        Vec::new()
    } else {
        // SAFETY: the caller promises it. Any bits are flags.
        unsafe { Vec::from_raw_parts(packets, count, count) }
    };
    A::instance()
        .with(|device| device.received(port, queue, &packets))
        .into()
}
