//! A device: a component instance, its PCI function, memory, and endpoints,
//! behind one lock.

use std::fs::File;

use crate::memory::MapError;

/// A running device. Cheap to clone; every clone is the same device.
#[derive(Clone, Debug)]
pub struct Device {}

impl Device {
    /// Reads configuration space (4096 bytes; beyond them, ones).
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        todo!("{offset} {data:?}")
    }

    /// Writes configuration space.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        todo!("{offset} {data:?}")
    }

    /// Reads a BAR (by index, 0 to 5).
    pub fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        todo!("{bar} {offset} {data:?}")
    }

    /// Writes a BAR.
    pub fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        todo!("{bar} {offset} {data:?}")
    }

    /// Size of a BAR in bytes, 0 if there is none with this index.
    pub fn bar_size(&self, bar: u8) -> u64 {
        todo!("{bar}")
    }

    /// Number of MSI-X vectors.
    pub fn msix_vectors(&self) -> u16 {
        todo!()
    }

    /// Shares guest memory with the device; `file` is None for memory that
    /// the VMM did not share by descriptor.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_memory(
        &self,
        address: u64,
        size: u64,
        file: Option<(File, u64)>,
        writable: bool,
    ) -> Result<(), MapError> {
        todo!("{address} {size} {file:?} {writable}")
    }

    /// Takes guest memory away again.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn unmap_memory(&self, address: u64, size: u64) -> Result<(), MapError> {
        todo!("{address} {size}")
    }

    /// Resets the function, as the VMM's reset line does.
    pub fn reset(&self) {
        todo!()
    }

    /// The VMM is gone: resets the function and forgets all guest memory.
    pub fn detach(&self) {
        todo!()
    }

    /// The live tree, for people and tools.
    pub fn inspect(&self) -> serde_json::Value {
        todo!()
    }
}
