//! Guest memory as an array of bytes, where mapping is unavailable.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

/// Guest memory. Ranges are inside it.
#[derive(Debug)]
pub struct Ram(RefCell<Vec<u8>>);

impl Ram {
    /// Returns zeroed memory of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self(RefCell::new(vec![0; size as usize]))
    }

    /// Copies from it.
    pub fn read(&self, range: Range<u64>, data: &mut [u8]) {
        data.copy_from_slice(&self.0.borrow()[range.start as usize..range.end as usize]);
    }

    /// Copies to it.
    pub fn write(&self, range: Range<u64>, data: &[u8]) {
        self.0.borrow_mut()[range.start as usize..range.end as usize].copy_from_slice(data);
    }

    /// Clears it.
    pub fn clear(&self) {
        self.0.borrow_mut().fill(0);
    }
}
