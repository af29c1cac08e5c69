//! Guest memory of a native bench, and windows over it.
//!
//! The memory is a file without a name, mapped as often as there are windows:
//! a device that is given a window and a driver that writes guest memory see
//! the same pages, as they do in the host.

#![allow(unsafe_code)]

use core::ptr::NonNull;
use std::os::fd::OwnedFd;

use device_kit::platform::MemoryError;
use device_kit::window::Window;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::bench::MEMORY_SIZE;

const PAGE: usize = 4096;

/// A mapping of part of the file.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is an address and a length; the memory there is accessed
// by raw pointers only, and stays mapped until the mapping is dropped.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped for this value, which nobody uses any
        // more; a failure would leak it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// Guest memory: [`MEMORY_SIZE`] bytes at guest address 0.
#[derive(Debug)]
pub struct GuestMemory {
    file: OwnedFd,
    all: Mapping,
}

impl GuestMemory {
    /// Zeroed memory.
    ///
    /// # Panics
    ///
    /// If the system has no memory to give.
    pub fn new() -> Self {
        let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd_create");
        rustix::fs::ftruncate(&file, MEMORY_SIZE).expect("ftruncate");
        let length = MEMORY_SIZE as usize;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at an address that the system chooses.
        let base =
            unsafe { rustix::mm::mmap(core::ptr::null_mut(), length, protection, flags, &file, 0) };
        let base = NonNull::new(base.expect("mmap").cast()).expect("an address");
        Self {
            file,
            all: Mapping { base, length },
        }
    }

    /// Copies from guest memory.
    ///
    /// # Errors
    ///
    /// Part of the range is not guest memory.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.range(address, data.len())?;
        // SAFETY: `range` checked that the range lies inside the mapping, of
        // which nobody has a reference.
        unsafe { core::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Copies to guest memory.
    ///
    /// # Errors
    ///
    /// Part of the range is not guest memory.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let to = self.range(address, data.len())?;
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    fn range(&self, address: u64, length: usize) -> Result<*mut u8, MemoryError> {
        let end = address.checked_add(length as u64).ok_or(MemoryError)?;
        if end > MEMORY_SIZE {
            return Err(MemoryError);
        }
        // SAFETY: the offset lies inside the mapping.
        Ok(unsafe { self.all.base.as_ptr().add(address as usize) })
    }

    /// Lays pages in a row, `repeats` times over. None if one of them is not
    /// guest memory.
    ///
    /// # Panics
    ///
    /// If the system has no address space to give.
    pub fn window(&self, pages: &[u64], repeats: usize) -> Option<Window> {
        let is_page =
            |page: &u64| page.is_multiple_of(PAGE as u64) && *page <= MEMORY_SIZE - PAGE as u64;
        if pages.is_empty() || !pages.iter().all(is_page) {
            return None;
        }
        let length = pages.len() * repeats * PAGE;
        let reserved = MapFlags::PRIVATE;
        // SAFETY: a new mapping, at an address that the system chooses.
        let base = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), length, ProtFlags::empty(), reserved)
        };
        let base = NonNull::new(base.expect("mmap").cast::<u8>()).expect("an address");
        let mapping = Mapping { base, length };
        let (protection, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
        );
        let all = (0..repeats).flat_map(|_| pages);
        for (index, page) in all.enumerate() {
            // SAFETY: the page replaced lies inside the mapping made above,
            // which nobody uses yet.
            let laid = unsafe {
                let at = mapping.base.as_ptr().add(index * PAGE).cast();
                rustix::mm::mmap(at, PAGE, protection, flags, &self.file, *page)
            };
            laid.expect("mmap");
        }
        let base = mapping.base;
        core::mem::forget(mapping);
        // SAFETY: the range is mapped until `unmap` takes the window back, and
        // is accessed by raw pointers only.
        Some(unsafe { Window::new(base, length as u32) })
    }

    /// Takes a window of this memory back.
    pub fn unmap(window: Window) {
        let (base, length) = window.into_parts();
        drop(Mapping {
            base,
            length: length as usize,
        });
    }
}

impl Default for GuestMemory {
    fn default() -> Self {
        Self::new()
    }
}
