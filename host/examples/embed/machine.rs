//! A machine with the adapter, as the guest's driver sees it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;

use manatee::device::Device;
use manatee_conformance::guest::Guest;

/// The machine that the driver runs in.
pub struct Machine {
    /// The adapter.
    pub device: Device,
    /// The guest's memory.
    pub memory: File,
    /// Vectors that were raised.
    pub interrupts: Receiver<u16>,
}

impl Guest for Machine {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = [0; 8];
        self.device.bar_read(0, offset, &mut value[..width.into()]);
        u64::from_le_bytes(value)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        self.device
            .bar_write(0, offset, &value.to_le_bytes()[..width.into()]);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.memory
            .read_exact_at(data, address)
            .expect("guest memory can be read");
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.memory
            .write_all_at(data, address)
            .expect("guest memory can be written");
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.interrupts.try_iter().collect()
    }
}
