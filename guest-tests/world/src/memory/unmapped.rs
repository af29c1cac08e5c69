//! Guest memory where nothing can be mapped: under miri. There are no windows over it, so
//! that a device goes by copies.

use core::convert::Infallible;
use core::ops::Range;
use core::ptr::NonNull;
use std::io;

use device_kit::window::Window;

use super::plain;

/// Size of a guest page in bytes.
pub const PAGE: usize = 4096;

/// A range of addresses, of which there is none.
#[derive(Debug)]
pub struct Mapping(Infallible);

impl Mapping {
    /// Returns the address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        match self.0 {}
    }

    /// Puts a page of zeros in place of a page.
    ///
    /// # Errors
    ///
    /// None.
    pub fn hide(&self, _index: usize) -> io::Result<()> {
        match self.0 {}
    }

    /// Returns a window over all of it.
    ///
    /// # Safety
    ///
    /// There is none.
    #[allow(unsafe_code)]
    pub unsafe fn window(&self) -> Window {
        match self.0 {}
    }
}

/// Guest memory, at guest address 0. Ranges and pages are inside it.
#[derive(Debug)]
pub struct Ram(plain::Ram);

impl Ram {
    /// Returns zeroed memory of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self(plain::Ram::new(size))
    }

    /// Copies from it.
    pub fn read(&self, range: Range<u64>, data: &mut [u8]) {
        self.0.read(range, data);
    }

    /// Copies to it.
    pub fn write(&self, range: Range<u64>, data: &[u8]) {
        self.0.write(range, data);
    }

    /// Maps pages in the order given.
    ///
    /// # Errors
    ///
    /// `Unsupported`, always.
    pub fn lay(&self, _pages: impl Iterator<Item = u64> + Clone) -> io::Result<Mapping> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Puts a guest page in place of a page of a mapping.
    ///
    /// # Errors
    ///
    /// None.
    pub fn show(&self, mapping: &Mapping, _index: usize, _page: u64) -> io::Result<()> {
        match mapping.0 {}
    }
}
