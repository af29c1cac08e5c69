//! Guest memory that windows can map.
//!
//! It is an anonymous file: a device with a window and a driver that writes guest memory
//! see the same pages, as in the host.

#![allow(unsafe_code)]

use core::ops::Range;
use core::ptr::NonNull;
use std::io;
use std::os::fd::OwnedFd;

use device_kit::window::Window;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Size of a guest page in bytes.
pub const PAGE: usize = 4096;

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A range of addresses that is mapped until this is dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is an address and a length; the memory there is accessed by raw
// pointers only, and stays mapped until the mapping is dropped.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing here accesses the memory.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped for this value, which nobody uses any more; a
        // failure would leak it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

impl Mapping {
    /// Reserves addresses, which can't be accessed yet.
    fn reserve(length: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address that the system chooses.
        let base = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), length, ProtFlags::empty(), flags)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, length })
    }

    /// Returns the address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Returns the length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the address of a page.
    fn page(&self, index: usize) -> *mut u8 {
        assert!(index < self.length / PAGE, "a page of the mapping");
        // SAFETY: the page lies inside the mapping.
        unsafe { self.base.as_ptr().add(index * PAGE) }
    }

    /// Replaces a page by a page of zeros.
    pub fn hide(&self, index: usize) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let at = self.page(index).cast();
        // SAFETY: the page that is replaced lies inside the mapping, which is accessed by
        // raw pointers only.
        unsafe { rustix::mm::mmap_anonymous(at, PAGE, READ_WRITE, flags) }?;
        Ok(())
    }

    /// Returns a window over all of it.
    ///
    /// # Safety
    ///
    /// The mapping lives as long as the window.
    pub unsafe fn window(&self) -> Window {
        // SAFETY: the range is page-aligned, accessed by raw pointers only, and mapped for
        // as long as the caller promises.
        unsafe { Window::new(self.base, self.length as u32) }
    }
}

/// Guest memory, at guest address 0. Ranges and pages are inside it.
#[derive(Debug)]
pub struct Ram {
    file: OwnedFd,
    all: Mapping,
}

impl Ram {
    /// Returns zeroed memory of `size` bytes.
    ///
    /// # Panics
    ///
    /// If the system has no memory.
    pub fn new(size: u64) -> Self {
        Self::with_size(size).expect("guest memory")
    }

    /// Returns zeroed memory of `size` bytes.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn with_size(size: u64) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, size)?;
        let all = Mapping::reserve(size as usize)?;
        let at = all.base.as_ptr().cast();
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the range that is replaced is the mapping's own, which nobody uses yet.
        unsafe { rustix::mm::mmap(at, all.length, READ_WRITE, flags, &file, 0) }?;
        Ok(Self { file, all })
    }

    /// Returns another descriptor of it.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    /// Copies from it.
    pub fn read(&self, range: Range<u64>, data: &mut [u8]) {
        let from = self.at(&range, data.len());
        // SAFETY: `at` checked that the range lies inside the mapping, of which nobody
        // has a reference.
        unsafe { core::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), data.len()) };
    }

    /// Copies to it.
    pub fn write(&self, range: Range<u64>, data: &[u8]) {
        let to = self.at(&range, data.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }

    fn at(&self, range: &Range<u64>, length: usize) -> *mut u8 {
        assert!(
            range.end <= self.all.length as u64 && range.end - range.start == length as u64,
            "a range of guest memory"
        );
        // SAFETY: the offset lies inside the mapping.
        unsafe { self.all.base.as_ptr().add(range.start as usize) }
    }

    /// Maps pages in the order given.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn lay(&self, pages: impl Iterator<Item = u64> + Clone) -> io::Result<Mapping> {
        let mapping = Mapping::reserve(pages.clone().count() * PAGE)?;
        for (index, page) in pages.enumerate() {
            self.show(&mapping, index, page)?;
        }
        Ok(mapping)
    }

    /// Replaces a page of a mapping by a guest page.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn show(&self, mapping: &Mapping, index: usize, page: u64) -> io::Result<()> {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let at = mapping.page(index).cast();
        // SAFETY: the page that is replaced lies inside the mapping, which is accessed by
        // raw pointers only.
        unsafe { rustix::mm::mmap(at, PAGE, READ_WRITE, flags, &self.file, page) }?;
        Ok(())
    }
}
