//! Whole pages of linear memory, for windows to be laid over.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::window::Window;

/// Size of the pages that windows are made of.
pub const SIZE: usize = 4096;
const WASM_PAGE: usize = 65536;

/// Ranges of linear memory that belong to no window and to no allocator.
#[derive(Default)]
pub struct Pages {
    /// Offset and number of pages, sorted, never touching one another.
    free: Vec<(u32, usize)>,
}

impl Pages {
    /// Takes pages in a row. None if the host lets memory grow no further.
    pub fn take(&mut self, count: usize) -> Option<u32> {
        let fitting = self.free.iter().position(|(_, free)| *free >= count);
        let index = match fitting {
            Some(index) => index,
            None => self.grow(count)?,
        };
        let (offset, free) = &mut self.free[index];
        let taken = *offset;
        *offset += (count * SIZE) as u32;
        *free -= count;
        if *free == 0 {
            self.free.remove(index);
        }
        Some(taken)
    }

    /// Gives pages back.
    pub fn give_back(&mut self, offset: u32, count: usize) {
        let index = self.free.partition_point(|(other, _)| *other < offset);
        self.free.insert(index, (offset, count));
        self.join(index);
        if let Some(before) = index.checked_sub(1) {
            self.join(before);
        }
    }

    /// Joins a range with the one behind it, if they touch.
    fn join(&mut self, index: usize) {
        let Some(&(next, count)) = self.free.get(index + 1) else { return };
        let (offset, free) = &mut self.free[index];
        if *offset as usize + *free * SIZE == next as usize {
            *free += count;
            self.free.remove(index + 1);
        }
    }

    /// Grows linear memory by at least `count` pages. Returns the range's index.
    fn grow(&mut self, count: usize) -> Option<usize> {
        let wasm_pages = count.checked_mul(SIZE)?.div_ceil(WASM_PAGE);
        let before = core::arch::wasm32::memory_grow(0, wasm_pages);
        if before == usize::MAX {
            return None;
        }
        self.free.push(((before * WASM_PAGE) as u32, wasm_pages * WASM_PAGE / SIZE));
        Some(self.free.len() - 1)
    }
}

/// The window over pages that were taken and that the host has laid.
pub fn window(offset: u32, count: usize) -> Window {
    let base = NonNull::new(offset as usize as *mut u8).unwrap_or(NonNull::dangling());
    // SAFETY: the pages lie inside linear memory, were taken from `Pages`, so
    // that nothing else refers to them, and stay until they are given back.
    unsafe { Window::new(base, (count * SIZE) as u32) }
}
