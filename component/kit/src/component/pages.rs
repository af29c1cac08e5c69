//! Pages of the window arena, a range of linear memory that is reserved once.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::bindings::manatee::device::guest_memory::{self, WindowAccess};
use crate::window::Window;

/// Size of the pages that windows are made of.
pub const SIZE: usize = 4096;
const WASM_PAGE: usize = 65536;

/// The arena's pages that belong to no window.
#[derive(Default)]
pub struct Pages {
    /// Offset and number of pages, sorted, never touching one another.
    free: Vec<(u32, usize)>,
}

impl Pages {
    /// Reserves an arena of `bytes` bytes. Returns false, without any pages, if
    /// the host has no windows or memory can't grow.
    pub fn reserve(&mut self, bytes: u32) -> bool {
        let wasm_pages = bytes as usize / WASM_PAGE;
        let before = core::arch::wasm32::memory_grow(0, wasm_pages);
        if wasm_pages == 0 || before == usize::MAX {
            return false;
        }
        let offset = (before * WASM_PAGE) as u32;
        let length = (wasm_pages * WASM_PAGE) as u32;
        if guest_memory::reserve_arena(offset, length).is_err() {
            return false;
        }
        self.free.push((offset, length as usize / SIZE));
        true
    }

    /// Takes `count` contiguous pages, or returns None. Writable ones come from
    /// the beginning and the others from the end, so that each kind is
    /// contiguous and a host maps it in few steps.
    pub fn take(&mut self, count: usize, access: WindowAccess) -> Option<u32> {
        let fits = |(_, free): &(u32, usize)| *free >= count;
        let index = match access {
            WindowAccess::ReadWrite => self.free.iter().position(fits)?,
            WindowAccess::ReadOnly => self.free.iter().rposition(fits)?,
        };
        let (offset, free) = &mut self.free[index];
        *free -= count;
        let taken = match access {
            WindowAccess::ReadWrite => {
                let first = *offset;
                *offset += (count * SIZE) as u32;
                first
            }
            WindowAccess::ReadOnly => *offset + (*free * SIZE) as u32,
        };
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

    /// Joins a range with the next one, if they touch.
    fn join(&mut self, index: usize) {
        let Some(&(next, count)) = self.free.get(index + 1) else {
            return;
        };
        let (offset, free) = &mut self.free[index];
        if *offset as usize + *free * SIZE == next as usize {
            *free += count;
            self.free.remove(index + 1);
        }
    }
}

/// Returns the window over pages that were taken and that the host has mapped.
pub fn window(offset: u32, count: usize) -> Window {
    let base = NonNull::new(offset as usize as *mut u8).unwrap_or(NonNull::dangling());
    // SAFETY: the pages lie inside the arena, where no allocator puts anything,
    // were taken from `Pages`, so that nothing else refers to them, and stay until
    // they are given back.
    unsafe { Window::new(base, (count * SIZE) as u32) }
}
