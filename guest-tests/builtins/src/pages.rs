//! The guest's pages: a file in memory, mapped where it is accessed.

use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::guest::{COMPLETION, COMPLETIONS, ENTRY, PAGES, RING, entries};

/// The pages of both rings, and where the host sees them.
pub struct Pages {
    file: OwnedFd,
    base: NonNull<u64>,
}

impl Pages {
    /// Makes fresh pages, with entries that all differ. They stay mapped until the end.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new() -> io::Result<Self> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, PAGES as u64)?;
        // SAFETY: a mapping at an address that the kernel chooses replaces nothing.
        let base = unsafe { map(null_mut(), &file, MapFlags::SHARED)? };
        let pages = Self {
            file,
            base: base.cast(),
        };
        for (word, value) in entries().enumerate() {
            pages.write(word, value);
        }
        Ok(pages)
    }

    /// Returns where the host sees them.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Maps them over the bytes from there on.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    ///
    /// # Safety
    ///
    /// The bytes belong to a mapping of the caller's, and nobody refers to them.
    pub unsafe fn lay(&self, at: *mut u8) -> io::Result<()> {
        // SAFETY: the caller promises it.
        unsafe { map(at.cast(), &self.file, MapFlags::SHARED | MapFlags::FIXED)? };
        Ok(())
    }

    /// Overwrites all completions.
    pub fn forget_completions(&self) {
        for word in COMPLETIONS / 8..PAGES / 8 {
            self.write(word, 0);
        }
    }

    /// Returns the expected result of a call that reads `count` entries from a position
    /// on.
    pub fn sum(&self, position: u64, count: u64) -> u32 {
        let words = (position..position + count).flat_map(|position| self.entry(position));
        words.fold(0, u64::wrapping_add) as u32
    }

    /// Checks that the completions of `count` entries from a position on were written,
    /// and no others.
    ///
    /// # Errors
    ///
    /// The first that is wrong, as text.
    pub fn check(&self, position: u64, count: u64) -> Result<(), String> {
        let end = position + count;
        for position in position..position + RING {
            let slot = (position % RING) as usize;
            let completion: [u64; 8] =
                std::array::from_fn(|word| self.read((COMPLETIONS + slot * COMPLETION) / 8 + word));
            let expected = if position < end {
                let [a, b, c, d] = self.entry(position);
                [
                    a,
                    b,
                    c,
                    d,
                    a ^ b,
                    c.wrapping_add(d),
                    position,
                    position | 1 << 63,
                ]
            } else {
                [0; 8]
            };
            if completion != expected {
                return Err(format!(
                    "the completion at {position} is {completion:x?} instead of {expected:x?}"
                ));
            }
        }
        Ok(())
    }

    fn entry(&self, position: u64) -> [u64; 4] {
        let slot = (position % RING) as usize;
        std::array::from_fn(|word| self.read(slot * ENTRY / 8 + word))
    }

    fn read(&self, word: usize) -> u64 {
        assert!(word < PAGES / 8);
        // SAFETY: it was just checked, and the mapping stays.
        unsafe { self.base.add(word).read_volatile() }
    }

    fn write(&self, word: usize, value: u64) {
        assert!(word < PAGES / 8);
        // SAFETY: as in `read`.
        unsafe { self.base.add(word).write_volatile(value) }
    }
}

/// Maps both rings.
///
/// # Safety
///
/// As for `mmap`.
unsafe fn map(at: *mut c_void, file: &OwnedFd, flags: MapFlags) -> io::Result<NonNull<c_void>> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the caller promises it.
    let base = unsafe { mmap(at, PAGES, access, flags, file, 0)? };
    NonNull::new(base).ok_or_else(|| io::Error::other("pages mapped at address 0"))
}
