//! Windows over guest memory, whose pages follow revocations.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ptr::NonNull;

use device_kit::window::Window;

use super::Memory;
use super::shared::{Mapping, PAGE};

/// The mapping of a window of the device.
#[derive(Debug)]
struct Laid {
    mapping: Mapping,
    /// The guest page behind each of its pages.
    pages: Vec<u64>,
    /// Whether the window shows all of them.
    is_present: bool,
}

/// The windows of a device.
#[derive(Debug, Default)]
pub struct Windows(Vec<Laid>);

impl Memory {
    /// Maps guest pages to a new window, in order and `repeats` times in a row. Returns
    /// None if one of them is not guest memory, or was revoked.
    ///
    /// # Panics
    ///
    /// If the system has no address space left.
    pub fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        let is_page = |page: &u64| {
            page.is_multiple_of(PAGE as u64) && self.in_reach(*page, PAGE as u64).is_some()
        };
        if pages.is_empty() || !pages.iter().all(is_page) {
            return None;
        }
        let pages = pages.repeat(repeats);
        let mapping = self.ram.lay(pages.iter().copied()).expect("a window");
        // SAFETY: the mapping lives until the device gives the window back, or is gone.
        let window = unsafe { mapping.window() };
        self.windows.0.push(Laid {
            mapping,
            pages,
            is_present: true,
        });
        Some(window)
    }

    /// Takes a window back.
    ///
    /// # Panics
    ///
    /// If it is not one of this memory.
    pub fn unmap_window(&mut self, window: Window) {
        let laid = &mut self.windows.0;
        let base = window.into_parts().0;
        let index = laid.iter().position(|laid| laid.mapping.base() == base);
        laid.swap_remove(index.expect("a window that was laid"));
    }

    /// Returns the number of windows.
    pub fn windows(&self) -> usize {
        self.windows.0.len()
    }

    /// Shows in each window the pages that are accessible, and zeros in place of the
    /// others. Returns the addresses of windows that now show all of their pages and did
    /// not before, or the reverse if `is_present` is false.
    pub(super) fn lay_again(&mut self, is_present: bool) -> Vec<NonNull<u8>> {
        let mut windows = core::mem::take(&mut self.windows);
        let mut changed = Vec::new();
        for laid in &mut windows.0 {
            let mut is_whole = true;
            for (index, page) in laid.pages.iter().enumerate() {
                let is_shown = self.in_reach(*page, PAGE as u64).is_some();
                is_whole &= is_shown;
                let done = if is_shown {
                    self.ram.show(&laid.mapping, index, *page)
                } else {
                    laid.mapping.hide(index)
                };
                done.expect("a page of a window");
            }
            if core::mem::replace(&mut laid.is_present, is_whole) != is_whole
                && is_whole == is_present
            {
                changed.push(laid.mapping.base());
            }
        }
        self.windows = windows;
        changed
    }
}
