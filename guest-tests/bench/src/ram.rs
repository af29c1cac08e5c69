//! Guest memory, and the rings in it as a driver sees them: contiguous, however
//! their pages are scattered.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result};
use device_kit::window::Window;
use manatee_conformance::world::memory::shared::{self, Mapping};

/// Guest memory: an anonymous, sparse file, at guest address 0.
#[derive(Debug)]
pub struct Ram(shared::Ram);

impl Ram {
    /// Creates zeroed memory of `size` bytes.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new(size: u64) -> Result<Self> {
        let ram = shared::Ram::with_size(size);
        Ok(Self(ram.context("cannot make guest memory")?))
    }

    /// Returns another descriptor of it, for the device.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn share(&self) -> Result<File> {
        let file = self.0.share().context("no more descriptors")?;
        Ok(File::from(file))
    }

    /// Copies from guest memory.
    ///
    /// # Panics
    ///
    /// If the range is not guest memory.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        self.0.read(address..address + data.len() as u64, data);
    }

    /// Copies to guest memory.
    ///
    /// # Panics
    ///
    /// If the range is not guest memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        self.0.write(address..address + data.len() as u64, data);
    }

    /// Returns the pages of a queue, contiguous.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn view(&self, pages: &[u64]) -> Result<View> {
        let mapping = self.0.lay(pages.iter().copied());
        Ok(View(mapping.context("cannot map a queue's pages")?))
    }

    /// Returns a window for a native device: the pages in order, `repeats` times in a
    /// row. It is never unmapped.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn window(&self, pages: &[u64], repeats: usize) -> io::Result<Window> {
        let all = (0..repeats).flat_map(|_| pages.iter().copied());
        let mapping = ManuallyDrop::new(self.0.lay(all)?);
        // SAFETY: the mapping is never dropped.
        Ok(unsafe { mapping.window() })
    }
}

/// Guest pages, contiguous.
#[derive(Debug)]
pub struct View(Mapping);

impl View {
    /// Returns the size in bytes.
    pub fn size(&self) -> usize {
        self.0.length()
    }

    /// Returns the word at a byte offset, a multiple of 8, with acquire ordering.
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
        assert!(offset < self.0.length() && offset.is_multiple_of(8));
        // SAFETY: the offset lies inside the mapping.
        unsafe { self.0.base().cast::<u64>().as_ptr().add(offset / 8) }
    }
}
