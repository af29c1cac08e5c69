//! A machine with the device in it, for a driver that does not need a whole bench.

use alloc::string::String;
use alloc::vec::Vec;

use device_kit::platform::{RxFlags, TxStatus};

pub use crate::bench::MEMORY_SIZE;
use crate::bench::{Bench, Transmitted};

/// What a driver sees of the machine that it runs in: the part of a
/// [`Bench`] that every machine has.
pub trait Guest {
    /// Reads 1, 2, 4 or 8 bytes of BAR 0.
    fn read_register(&mut self, offset: u64, width: u8) -> u64;

    /// Writes 1, 2, 4 or 8 bytes of BAR 0.
    fn write_register(&mut self, offset: u64, width: u8, value: u64);

    /// Copies from guest memory.
    fn read_memory(&mut self, address: u64, data: &mut [u8]);

    /// Copies to guest memory.
    fn write_memory(&mut self, address: u64, data: &[u8]);

    /// Returns the MSI-X vectors raised since the last call, in order.
    fn take_interrupts(&mut self) -> Vec<u16>;
}

/// A machine as a bench without a wire: packets that leave its ports are lost, and none
/// arrive.
#[derive(Debug)]
pub struct Unwired<G>(pub G);

impl<G: Guest> Bench for Unwired<G> {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.0.read_register(offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        self.0.write_register(offset, width, value);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.0.read_memory(address, data);
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.0.write_memory(address, data);
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.0.take_interrupts()
    }

    fn revoke_memory(&mut self, _address: u64, _length: u64) {}

    fn give_memory_back(&mut self) {}

    fn take_transmitted(&mut self, _port: u32) -> Vec<Transmitted> {
        Vec::new()
    }

    fn plan_transmits(&mut self, _port: u32, _statuses: &[TxStatus]) {}

    fn finish_transmit(&mut self, _port: u32, _statuses: &[TxStatus]) {}

    fn receive(&mut self, _port: u32, _frames: &[(&[u8], RxFlags)]) -> usize {
        0
    }

    fn posted_buffers(&mut self, _port: u32) -> usize {
        0
    }

    fn limit_buffers(&mut self, _port: u32, _most: usize) {}

    fn pending_transmits(&mut self, _port: u32) -> usize {
        0
    }

    fn set_link(&mut self, _port: u32, _up: bool) {}

    fn reset(&mut self) {}

    fn inspect(&mut self) -> String {
        String::from("{}")
    }
}
