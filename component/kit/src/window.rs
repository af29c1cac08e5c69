//! Guest pages laid over the device's own memory.
//!
//! The only `unsafe` of the device: everything else sees a window through
//! bounds-checked, volatile loads and stores, because the guest changes what
//! lies behind it at any time.

#![allow(unsafe_code)]

use core::array;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// A range of memory that the guest shares.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    length: u32,
}

// SAFETY: a window is an address and a length; every access goes through
// volatile operations that assume nothing about who else accesses the memory.
unsafe impl Send for Window {}

impl Window {
    /// A window over `length` bytes at `base`.
    ///
    /// # Safety
    ///
    /// `base` is a multiple of 8, and the `length` bytes there are valid for
    /// reads and writes for as long as the window lives; no reference to any
    /// of them exists.
    pub unsafe fn new(base: NonNull<u8>, length: u32) -> Self {
        Self { base, length }
    }

    /// Address and length, for whoever made the window.
    pub fn into_parts(self) -> (NonNull<u8>, u32) {
        (self.base, self.length)
    }

    /// Returns where it begins.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Loads words from `offset`, which is a multiple of 8. Words beyond the
    /// end stay as they are, and the result is false.
    #[must_use]
    #[inline]
    pub fn load(&self, offset: u32, words: &mut [u64]) -> bool {
        let Some(base) = self.range(offset, 8 * words.len()) else {
            return false;
        };
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: `range` checked that the words lie inside the window and
            // are aligned; `new` promised that they are valid for reads.
            *word = unsafe { base.cast::<u64>().add(index).read_volatile() };
        }
        true
    }

    /// Reads so many entries of `WORDS` words each, from `offset` on, which is
    /// a multiple of 8; each once, when it is taken. None if any lies beyond
    /// the end.
    #[inline]
    pub fn entries<const WORDS: usize>(
        &self,
        offset: u32,
        count: usize,
    ) -> Option<impl Iterator<Item = [u64; WORDS]>> {
        let base = self.range(offset, count.checked_mul(8 * WORDS)?)?;
        Some((0..count).map(move |index| {
            array::from_fn(|word| {
                // SAFETY: `range` checked all of the entries.
                unsafe { base.cast::<u64>().add(index * WORDS + word).read_volatile() }
            })
        }))
    }

    /// The places of so many entries of `WORDS` words and one more, from
    /// `offset` on, which is a multiple of 8. None if any lies beyond the end.
    #[inline]
    pub fn places<const WORDS: usize>(
        &self,
        offset: u32,
        count: usize,
    ) -> Option<impl Iterator<Item = Place<'_, WORDS>>> {
        let base = self.range(offset, count.checked_mul(8 * (WORDS + 1))?)?;
        Some((0..count).map(move |index| Place {
            // SAFETY: `range` checked all of the entries.
            base: unsafe { base.cast::<u64>().add(index * (WORDS + 1)) },
            window: PhantomData,
        }))
    }

    /// Stores words at `offset`, which is a multiple of 8, and behind them
    /// `last` in one piece, such that whoever sees `last` sees the words.
    /// False if any lies beyond the end; nothing is stored then.
    #[must_use]
    #[inline]
    pub fn publish(&self, offset: u32, words: &[u64], last: u64) -> bool {
        let Some(base) = self.range(offset, 8 * (words.len() + 1)) else {
            return false;
        };
        let base = base.cast::<u64>();
        for (index, word) in words.iter().enumerate() {
            // SAFETY: as in `load`, for writes.
            unsafe { base.add(index).write_volatile(*word) };
        }
        fence(Ordering::Release);
        // SAFETY: `range` included the word behind `words`.
        unsafe { base.add(words.len()).write_volatile(last) };
        true
    }

    #[inline]
    fn range(&self, offset: u32, length: usize) -> Option<NonNull<u8>> {
        let end = (offset as usize).checked_add(length)?;
        if end > self.length as usize || !offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the offset is inside the allocation that `new` was given.
        Some(unsafe { self.base.add(offset as usize) })
    }
}

/// Where an entry of `WORDS` words and one more goes.
#[derive(Debug)]
pub struct Place<'a, const WORDS: usize> {
    base: NonNull<u64>,
    window: PhantomData<&'a Window>,
}

impl<const WORDS: usize> Place<'_, WORDS> {
    /// Stores the words, and behind them `last`, as [`Window::publish`] does.
    #[inline]
    pub fn publish(self, words: [u64; WORDS], last: u64) {
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: `places` checked the whole entry, and the window, which
            // `window` keeps alive, promises that it is valid for writes.
            unsafe { self.base.add(index).write_volatile(word) };
        }
        fence(Ordering::Release);
        // SAFETY: as above.
        unsafe { self.base.add(WORDS).write_volatile(last) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn window(memory: &mut [u64]) -> Window {
        let base = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
        // SAFETY: the tests use `memory` only through the window while it lives.
        unsafe { Window::new(base, 8 * memory.len() as u32) }
    }

    #[test]
    fn words_go_out_and_come_back() {
        let mut memory = vec![0; 8];
        let window = window(&mut memory);
        assert!(window.publish(16, &[7, 8], 9));
        let mut words = [0; 6];
        assert!(window.load(16, &mut words));
        assert_eq!(words, [7, 8, 9, 0, 0, 0]);
    }

    #[test]
    fn entries_are_read_and_published_in_order() {
        let mut memory = vec![0; 7];
        let window = window(&mut memory);
        for (value, place) in (1..).zip(window.places::<2>(8, 2).unwrap()) {
            place.publish([10 * value, 10 * value + 1], value);
        }
        let entries: Vec<[u64; 3]> = window.entries(8, 2).unwrap().collect();
        assert_eq!(entries, [[10, 11, 1], [20, 21, 2]]);
        assert_eq!(memory, [0, 10, 11, 1, 20, 21, 2]);
    }

    #[test]
    fn nothing_beyond_the_end() {
        let mut memory = vec![0; 2];
        let window = window(&mut memory);
        let mut words = [5; 2];
        assert!(!window.load(8, &mut words));
        assert!(!window.load(!7, &mut words));
        assert!(!window.load(4, &mut words[..1]));
        assert!(!window.publish(0, &[1, 2], 3));
        assert!(!window.publish(8, &[1], 3));
        assert!(window.places::<1>(0, 2).is_none());
        assert!(window.places::<1>(4, 0).is_none());
        assert!(window.entries::<1>(8, 2).is_none());
        assert!(window.entries::<2>(0, usize::MAX / 8).is_none());
        assert_eq!((words, memory), ([5, 5], vec![0, 0]));
    }
}
