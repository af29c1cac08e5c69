//! A device as what a VMM in another process drives over vfio-user.

use std::ops::Range;

pub use manatee_vfio_user::{
    Access, BindError, MAX_DMA_MAPS, ServeError, Server, Stopper, Vectors,
};
use manatee_vfio_user::{Backend, CONFIG_SPACE_SIZE, MemoryMap, Refused};
use rustix::io::Errno;

use crate::device::Device;
use crate::interrupt::VectorSink;
use crate::memory::{GuestFile, GuestMemory, MapError};

/// A client may share as many regions as it assumes without being told of a limit.
const _: () = assert!(GuestMemory::MAX_REGIONS >= MAX_DMA_MAPS);
const _: () = assert!(crate::pci::CONFIG_SPACE_SIZE as u64 == CONFIG_SPACE_SIZE);

impl Backend for Device {
    fn bar_size(&self, bar: u8) -> u64 {
        Device::bar_size(self, bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        Device::bar_read(self, bar, offset, data);
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        Device::bar_write(self, bar, offset, data);
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        Device::config_read(self, offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        Device::config_write(self, offset, data);
    }

    fn map_memory(&self, map: MemoryMap) -> Result<bool, Refused> {
        let MemoryMap {
            address,
            size,
            file,
            writable,
        } = map;
        let opened = file.map(|(file, offset)| {
            let file = GuestFile::new(file, address, size)?;
            Ok((file, offset))
        });
        let mapped = opened.transpose().and_then(|file| {
            let may_shrink = file.as_ref().is_some_and(|(file, _)| file.may_shrink());
            self.map_guest_file(address, size, file, writable)?;
            Ok(may_shrink)
        });
        mapped.map_err(|error| refused(map_errno(&error), &error))
    }

    fn unmap_memory(&self, address: u64, size: u64) -> Result<(), Refused> {
        let unmapped = Device::unmap_memory(self, address, size);
        unmapped.map_err(|error| refused(unmap_errno(&error), &error))
    }

    fn unmap_all_memory(&self) -> Result<(), Refused> {
        let unmapped = Device::unmap_all_memory(self);
        unmapped.map_err(|error| refused(unmap_errno(&error), &error))
    }

    fn raise(&self, vectors: Range<u16>) {
        Device::raise(self, vectors);
    }

    fn reset(&self) {
        Device::reset(self);
    }

    fn attach(&self) {
        Device::attach(self);
    }

    fn detach(&self) {
        Device::detach(self);
    }
}

fn refused(errno: Errno, error: &MapError) -> Refused {
    Refused {
        errno,
        reason: error.to_string(),
    }
}

/// Returns what says best why memory was refused.
fn map_errno(error: &MapError) -> Errno {
    match error {
        MapError::Overlaps(..) => Errno::EXIST,
        MapError::TooMany
        | MapError::TooManyInProcess
        | MapError::TooManyFiles
        | MapError::TooLarge { .. } => Errno::NOSPC,
        MapError::ReadOnlyFile(..) => Errno::ACCESS,
        _ => Errno::INVAL,
    }
}

/// Returns what says best why memory was not given up.
fn unmap_errno(error: &MapError) -> Errno {
    match error {
        MapError::InReach(_) => Errno::IO,
        _ => Errno::INVAL,
    }
}

impl VectorSink for Vectors {
    fn raise(&self, vector: u16) {
        Vectors::raise(self, vector);
    }

    fn is_pending(&self, vector: u16) -> bool {
        Vectors::is_pending(self, vector)
    }

    fn raise_late(&self, vector: u16) {
        Vectors::raise_late(self, vector);
    }

    fn hurry(&self) {
        Vectors::hurry(self);
    }

    fn forget(&self) {
        self.forget_pending();
    }
}
