//! Guest pages mapped over the device's own memory.
//!
//! The device's only `unsafe` besides the glue of the component: all accesses
//! to a window are bounds-checked, volatile loads and stores, because the guest
//! may change the memory at any time.

#![allow(unsafe_code)]

use core::array;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// A range of memory that is shared with the guest.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    length: u32,
}

// SAFETY: a window is an address and a length; every access goes through
// volatile operations that assume nothing about who else accesses the memory.
unsafe impl Send for Window {}

impl Window {
    /// Creates a window over `length` bytes at `base`.
    ///
    /// # Safety
    ///
    /// `base` is a multiple of 8, and the `length` bytes there are valid for
    /// reads and writes for as long as the window lives; no reference to any
    /// of them exists.
    pub unsafe fn new(base: NonNull<u8>, length: u32) -> Self {
        Self { base, length }
    }

    /// Returns address and length, to unmap the window.
    pub fn into_parts(self) -> (NonNull<u8>, u32) {
        (self.base, self.length)
    }

    /// Returns where it begins.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Shows `length` bytes from `offset` on, a multiple of 8. Returns None if
    /// any lies beyond the end.
    #[inline]
    pub fn view(&self, offset: u32, length: u32) -> Option<View<'_>> {
        let base = self.range(offset, length as usize)?;
        Some(View {
            base: base.cast(),
            words: length as usize / 8,
            memory: PhantomData,
        })
    }

    /// Returns the slots of `count` entries of `WORDS` + 1 words each, from
    /// `offset` on, a multiple of 8; None if any lies beyond the end.
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

/// Words that somebody else may change at any time: each is read when it is
/// asked for, and what is read is a copy.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    base: NonNull<u64>,
    words: usize,
    memory: PhantomData<&'a [u64]>,
}

impl<'a> View<'a> {
    /// Shows words that nobody changes.
    #[must_use]
    pub fn of(words: &'a [u64]) -> Self {
        Self {
            base: NonNull::from(words).cast(),
            words: words.len(),
            memory: PhantomData,
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn length(&self) -> u32 {
        8 * self.words as u32
    }

    /// Shows what follows the first `words`.
    #[must_use]
    #[inline]
    pub fn skip(self, words: usize) -> Self {
        let words = words.min(self.words);
        Self {
            // SAFETY: inside, or one past the last word.
            base: unsafe { self.base.add(words) },
            words: self.words - words,
            ..self
        }
    }

    /// Copies the first words. Returns whether there are as many.
    #[must_use]
    #[inline]
    pub fn copy_to(&self, words: &mut [u64]) -> bool {
        if words.len() > self.words {
            return false;
        }
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: the word lies inside, which was valid for reads when the
            // view was made and stays so while it lives.
            *word = unsafe { self.base.add(index).read_volatile() };
        }
        true
    }

    /// Reads up to `most` entries of `WORDS` words each, as many as there are;
    /// each is read once, when the iterator yields it.
    #[inline]
    pub fn entries<const WORDS: usize>(
        self,
        most: usize,
    ) -> impl Iterator<Item = [u64; WORDS]> + use<'a, WORDS> {
        let count = most.min(self.words / WORDS);
        (0..count).map(move |index| {
            array::from_fn(|word| {
                // SAFETY: as in `copy_to`.
                unsafe { self.base.add(index * WORDS + word).read_volatile() }
            })
        })
    }
}

/// The slot of an entry of `WORDS` + 1 words.
#[derive(Debug)]
pub struct Place<'a, const WORDS: usize> {
    base: NonNull<u64>,
    window: PhantomData<&'a Window>,
}

impl<const WORDS: usize> Place<'_, WORDS> {
    /// Stores the words, then `last` in one piece: a reader that sees `last`
    /// sees the words.
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
    fn entries_are_read_and_published_in_order() {
        let mut memory = vec![0; 7];
        let window = window(&mut memory);
        for (value, place) in (1..).zip(window.places::<2>(8, 2).unwrap()) {
            place.publish([10 * value, 10 * value + 1], value);
        }
        let view = window.view(8, 48).unwrap();
        let entries: Vec<[u64; 3]> = view.entries(9).collect();
        assert_eq!(entries, [[10, 11, 1], [20, 21, 2]]);
        assert_eq!(view.entries::<1>(2).count(), 2);
        let mut words = [0; 2];
        assert!(view.copy_to(&mut words));
        assert_eq!((words, view.length()), ([10, 11], 48));
        assert!(view.skip(4).copy_to(&mut words));
        assert_eq!((words, view.skip(9).length()), ([21, 2], 0));
        assert_eq!(memory, [0, 10, 11, 1, 20, 21, 2]);
    }

    #[test]
    fn nothing_beyond_the_end() {
        let mut memory = vec![0; 2];
        let window = window(&mut memory);
        assert!(window.view(8, 16).is_none());
        assert!(window.view(!7, 16).is_none());
        assert!(window.view(4, 8).is_none());
        assert!(window.places::<1>(0, 2).is_none());
        assert!(window.places::<1>(4, 0).is_none());
        let view = window.view(8, 8).unwrap();
        assert!(!view.copy_to(&mut [0; 2]));
        assert_eq!(view.entries::<2>(9).count(), 0);
    }
}
