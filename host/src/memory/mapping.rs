//! A file's pages in this process.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The first bytes of a file, mapped and shared with all others who map it.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages belong to this value until it is dropped, and are memory
// that others write at any time: whoever accesses them does so by volatile
// accesses, from whatever thread.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes, a multiple of the file's page size.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn new(file: &File, length: usize, writable: bool) -> io::Result<Self> {
        let mut rights = ProtFlags::READ;
        rights.set(ProtFlags::WRITE, writable);
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches
        // nothing that exists.
        let base = unsafe { mmap(std::ptr::null_mut(), length, rights, flags, file.as_fd(), 0)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, length })
    }

    /// Returns where it begins.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Returns how many bytes are mapped.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this range, and nothing refers to it any more:
        // all regions that lie in it hold this value alive.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "guest memory could not be unmapped");
        }
    }
}
