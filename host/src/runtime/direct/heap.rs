//! The part of linear memory that only the component writes, which is all that the host ever
//! creates references to.
//!
//! Guest memory is in the arena only, and [`Heap`] returns slices outside of it: so no reference
//! of the host is to memory that a guest, a VMM or another thread changes. While a `Heap` lives,
//! its store is borrowed, so that the component does not run and the memory does not grow.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use wasmtime::{AsContextMut, Result, bail};
use zerocopy::{FromBytes, Immutable};

use crate::runtime::state::HostState;

/// The current location of the linear memory of a store's instance.
#[derive(Debug)]
pub struct Place {
    /// Its first byte.
    pub base: *mut u8,
    /// Bytes that are accessible.
    pub size: usize,
    /// The part that is no heap.
    pub arena: Range<u32>,
}

/// A component's linear memory without its arena.
#[derive(Debug)]
pub struct Heap<'a> {
    base: *mut u8,
    size: usize,
    arena: Range<usize>,
    /// Of a store that is borrowed exclusively.
    store: PhantomData<&'a mut [u8]>,
}

impl<'a> Heap<'a> {
    /// Returns the heap of a store's instance, and the store's state.
    #[inline]
    pub fn of<S>(place: Place, store: &'a mut S) -> (Self, &'a mut HostState)
    where
        S: AsContextMut<Data = HostState>,
    {
        let Place { base, size, arena } = place;
        let heap = Self {
            base,
            size,
            arena: arena.start as usize..arena.end as usize,
            store: PhantomData,
        };
        // SAFETY: the state is a value of the host's, apart from linear memory.
        // Its borrow and that of the heap last as long as the store's.
        let state = unsafe { &mut *std::ptr::from_mut(store.as_context_mut().data_mut()) };
        (heap, state)
    }

    /// Returns a heap that is a slice, whose middle is an arena.
    #[cfg(test)]
    pub fn over(memory: &'a mut [u8], arena: Range<usize>) -> Self {
        Self {
            base: memory.as_mut_ptr(),
            size: memory.len(),
            arena,
            store: PhantomData,
        }
    }

    /// Checks a range, and returns its first byte and its length.
    #[inline]
    fn locate(&self, address: u32, size: usize, align: u32) -> Result<(*mut u8, usize)> {
        let begin = address as usize;
        // Of a power of two, as all alignments are, without a division.
        if address & (align - 1) != 0 {
            bail!("a list or record is not aligned");
        }
        let end = begin.saturating_add(size);
        if end > self.size {
            bail!("a list or record ends beyond linear memory");
        }
        if begin < self.arena.end && self.arena.start < end && size > 0 {
            bail!("a list or record meets the window arena, where the guest can change it");
        }
        Ok((self.base.wrapping_add(begin), size))
    }

    /// Returns the bytes from an address on.
    ///
    /// # Errors
    ///
    /// The range is not aligned, ends beyond the memory, or meets the arena.
    #[inline]
    pub fn bytes(&self, address: u32, size: usize, align: u32) -> Result<&[u8]> {
        let (base, size) = self.locate(address, size, align)?;
        // SAFETY: the bytes lie inside the accessible part of linear memory and
        // outside the arena, so that only the component and the owner of this store
        // write them. Neither does while the store is borrowed, but by `bytes_mut`,
        // which takes the heap exclusively.
        Ok(unsafe { std::slice::from_raw_parts(base, size) })
    }

    /// Returns the same as [`bytes`](Self::bytes), to write to.
    ///
    /// # Errors
    ///
    /// The same as for [`bytes`](Self::bytes).
    #[inline]
    pub fn bytes_mut(&mut self, address: u32, size: usize, align: u32) -> Result<&mut [u8]> {
        let (base, size) = self.locate(address, size, align)?;
        // SAFETY: as in `bytes`, and the heap is borrowed exclusively.
        Ok(unsafe { std::slice::from_raw_parts_mut(base, size) })
    }

    /// Returns the items of a list of integers or arrays of them.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    #[inline]
    pub fn items<T: FromBytes + Immutable>(
        &self,
        (address, count): (u32, u32),
        align: u32,
    ) -> Result<&[T]> {
        let Some(size) = (count as usize).checked_mul(size_of::<T>()) else {
            bail!("a list is too long");
        };
        match <[T]>::ref_from_bytes(self.bytes(address, size, align)?) {
            Ok(items) => Ok(items),
            Err(_) => bail!("a list is not aligned"),
        }
    }
}
