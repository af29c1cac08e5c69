//! Guest memory, and the rings in it as a driver sees them: in a row, however
//! their pages are scattered.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result};
use device_kit::window::Window;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// Guest memory: a file without a name, sparse, at guest address 0.
#[derive(Debug)]
pub struct Ram {
    file: File,
}

impl Ram {
    /// Zeroed memory of `size` bytes.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(size: u64) -> Result<Self> {
        let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC);
        let file = File::from(file.context("cannot make guest memory")?);
        file.set_len(size).context("cannot size guest memory")?;
        Ok(Self { file })
    }

    /// Another descriptor of it, for the device.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn share(&self) -> Result<File> {
        self.file.try_clone().context("no more descriptors")
    }

    /// Copies from guest memory.
    ///
    /// # Panics
    ///
    /// If the range is not guest memory.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let read = self.file.read_exact_at(data, address);
        read.expect("the driver reads guest memory");
    }

    /// Copies to guest memory.
    ///
    /// # Panics
    ///
    /// If the range is not guest memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        let written = self.file.write_all_at(data, address);
        written.expect("the driver writes guest memory");
    }

    /// The pages of a queue in a row.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn view(&self, pages: &[u64]) -> Result<View> {
        View::new(&self.file, pages.iter().copied())
    }

    /// A window for a native device: the pages in a row, `repeats` times over.
    /// It is never taken back.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn window(&self, pages: &[u64], repeats: usize) -> Result<Window> {
        let all = (0..repeats).flat_map(|_| pages.iter().copied());
        let view = std::mem::ManuallyDrop::new(View::new(&self.file, all)?);
        // SAFETY: the range is page-aligned, stays mapped, as the view is never
        // dropped, and is accessed by raw pointers only.
        Ok(unsafe { Window::new(view.base.cast(), view.length as u32) })
    }
}

/// Guest pages in a row.
#[derive(Debug)]
pub struct View {
    base: NonNull<u64>,
    /// In bytes, a multiple of a page.
    length: usize,
}

impl View {
    fn new(file: &File, pages: impl Iterator<Item = u64> + Clone) -> Result<Self> {
        let length = pages.clone().count() * PAGE;
        // SAFETY: a new mapping, at an address that the system chooses.
        let base = unsafe {
            let reserved = MapFlags::PRIVATE | MapFlags::NORESERVE;
            let nothing = ProtFlags::empty();
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, nothing, reserved)
        };
        let base = base.context("cannot reserve addresses for a queue")?;
        let base = NonNull::new(base.cast::<u64>()).context("a queue at address 0")?;
        let view = Self { base, length };
        for (index, page) in pages.enumerate() {
            // SAFETY: the page replaced lies inside the mapping made above,
            // which nobody uses yet.
            let laid = unsafe {
                let at = view.base.as_ptr().cast::<u8>().add(index * PAGE).cast();
                let rights = ProtFlags::READ | ProtFlags::WRITE;
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                rustix::mm::mmap(at, PAGE, rights, flags, file.as_fd(), page)
            };
            laid.context("cannot map a queue's page")?;
        }
        Ok(view)
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.length
    }

    /// The word at a byte offset, a multiple of 8; what is loaded later is no
    /// older.
    #[inline]
    pub fn load(&self, offset: usize) -> u64 {
        let at = self.at(offset);
        // SAFETY: `at` checked that the word lies inside the mapping.
        let word = unsafe { at.read_volatile() };
        fence(Ordering::Acquire);
        word
    }

    /// Stores a word at a byte offset, a multiple of 8.
    #[inline]
    pub fn store(&self, offset: usize, word: u64) {
        let at = self.at(offset);
        // SAFETY: as in `load`.
        unsafe { at.write_volatile(word) };
    }

    #[inline]
    fn at(&self, offset: usize) -> *mut u64 {
        assert!(offset < self.length && offset.is_multiple_of(8));
        // SAFETY: the offset lies inside the mapping.
        unsafe { self.base.as_ptr().add(offset / 8) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: this range was mapped for this value, which nobody uses any
        // more; a failure would leak it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
