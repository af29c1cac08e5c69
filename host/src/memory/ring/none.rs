//! Replaces [`Ring`] in a library that is built without io_uring.

use std::os::fd::BorrowedFd;

use super::error::Outcome;

/// An io_uring that can't exist.
#[derive(Debug)]
pub enum Ring {}

/// A call that nothing makes.
#[derive(Debug)]
pub struct Entry;

impl Ring {
    /// Fails: calls take a system call each.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn new(_entries: u32) -> std::io::Result<Self> {
        let error = "the library was built without the feature `io-uring`";
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, error))
    }

    /// Makes no calls, as there is no ring.
    ///
    /// # Safety
    ///
    /// None is needed: there is nothing to call this on.
    pub unsafe fn make(
        &mut self,
        _calls: impl Iterator<Item = Entry>,
        _outcomes: &mut Vec<Outcome>,
    ) -> usize {
        match *self {}
    }
}

/// Returns the call that reads into a range.
pub fn read_entry(_fd: BorrowedFd<'_>, _range: &libc::iovec) -> Entry {
    Entry
}

/// Returns the call that writes ranges.
pub fn write_entry(_fd: BorrowedFd<'_>, _ranges: &[libc::iovec]) -> Entry {
    Entry
}
