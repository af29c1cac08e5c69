//! The export `received`, which takes the packets as they lie in memory.
//!
//! The generated binding copies a list whose records hold flags to a new
//! allocation at every call.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::mem::offset_of;

use super::with_device;
use crate::platform::{RxFlags, RxPacket};

const _: () = {
    assert!(size_of::<RxPacket>() == 16 && align_of::<RxPacket>() == 4);
    assert!(offset_of!(RxPacket, length) == 4 && offset_of!(RxPacket, vlan_tci) == 8);
    assert!(offset_of!(RxPacket, hash) == 12);
    assert!(offset_of!(RxPacket, flags) == 10 && size_of::<RxFlags>() == 2);
};

// SAFETY: the name is the one that the canonical ABI gives this function of the
// WIT world, and so are the types.
#[unsafe(export_name = "manatee:device/device@0.2.0#received")]
extern "C" fn export(port: u32, queue: u32, packets: *mut RxPacket, count: usize) -> u32 {
    let packets = if count == 0 {
        Vec::new()
    } else {
        // SAFETY: the host filled a list of so many packets, laid out as the
        // canonical ABI says, that it had our allocator give it. Any bits are
        // flags.
        unsafe { Vec::from_raw_parts(packets, count, count) }
    };
    with_device(|device| device.received(port, queue, &packets)).into()
}
