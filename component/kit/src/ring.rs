//! The memory of a queue: pages of the guest, reached through a window where
//! there is one, and by copies where there is none.
//!
//! A window over entries that the device writes is mapped on first use: a host
//! that replaces the device has to map it while the guest waits, and mostly few
//! queues are in use then. One over entries that only the driver writes is mapped
//! with the queue, which a replacement does before the guest waits.
//!
//! A reader gets a [`View`] in either case: of the window, or of a copy of what
//! it asked for.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::IntoBytes;

use crate::PAGE_SIZE;
use crate::platform::{MemoryError, Platform};
use crate::window::{View, Window};

/// Bytes that are copied at a time where there is no window: a bound on what
/// a queue costs, and longer than any entry.
const COPY: u32 = PAGE_SIZE;

/// How a queue's entries are used, which decides how and when its pages are
/// mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Entries of one size, which never straddle the end. The device writes
    /// them.
    Fixed,
    /// Entries that may continue at the beginning. The driver writes them.
    Wrapping,
}

impl Layout {
    /// Returns how many times in a row the pages are mapped.
    fn repeats(self) -> usize {
        match self {
            Self::Fixed => 1,
            Self::Wrapping => 2,
        }
    }
}

/// The memory of a queue: a power of two of pages.
#[derive(Debug)]
pub struct Ring {
    window: Option<Window>,
    /// Whether the window is still to be mapped, on first use.
    is_unused: bool,
    /// Whether the window, if there is one, shows guest memory: the VMM may have
    /// taken it away for a while.
    is_present: bool,
    pages: Vec<u64>,
    layout: Layout,
    /// Copies of entries, where there is no window.
    copy: Vec<u64>,
}

impl Ring {
    /// Creates a ring of a region's pages, whose number is a power of two.
    pub fn new(platform: &mut impl Platform, pages: Vec<u64>, layout: Layout) -> Self {
        let mut ring = Self {
            window: None,
            is_unused: true,
            is_present: true,
            pages,
            layout,
            copy: Vec::new(),
        };
        if layout == Layout::Wrapping {
            ring.lay(platform);
        }
        ring
    }

    /// Maps the window, if that was not tried before.
    #[cold]
    fn lay(&mut self, platform: &mut impl Platform) {
        if core::mem::take(&mut self.is_unused) {
            self.window = platform.map_window(&self.pages, self.layout.repeats());
        }
    }

    /// Notes whether the window shows guest memory. While it does not, the ring
    /// is accessed by copies, which fail where memory is gone.
    pub fn set_present(&mut self, is_present: bool) {
        self.is_present = is_present;
    }

    /// Unmaps the window and returns the pages.
    pub fn release(self, platform: &mut impl Platform) -> Vec<u64> {
        if let Some(window) = self.window {
            platform.unmap_window(window);
        }
        self.pages
    }

    /// Returns the size in bytes.
    #[inline]
    #[must_use]
    pub fn size(&self) -> u32 {
        self.pages.len() as u32 * PAGE_SIZE
    }

    /// Returns the window, if it can be used.
    #[inline]
    fn usable_window(&self) -> Option<&Window> {
        self.window.as_ref().filter(|_| self.is_present)
    }

    /// Returns the window, even if it shows no guest memory at the moment.
    #[must_use]
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Returns whether there is no window because the host refused it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.window.is_none() && !self.is_unused
    }

    /// Returns the layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the guest pages in order.
    #[must_use]
    pub fn pages(&self) -> &[u64] {
        &self.pages
    }

    /// Shows up to `length` bytes from a position on, which is a multiple of 8
    /// and wraps at the ring's size: all of them through a window; without one,
    /// no more than are copied at a time, and fewer if the VMM revoked a page.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the first page is not guest memory.
    #[inline]
    pub fn view(
        &mut self,
        platform: &mut impl Platform,
        position: u32,
        length: u32,
    ) -> Result<View<'_>, MemoryError> {
        let offset = position & (self.size() - 1);
        if self.is_unused {
            self.lay(platform);
        }
        if self.usable_window().is_some() {
            let window = self.usable_window();
            let view = window.and_then(|window| window.view(offset, length));
            return view.ok_or(MemoryError);
        }
        self.copy(platform, offset, length.min(COPY))
    }

    #[inline(never)]
    fn copy(
        &mut self,
        platform: &mut impl Platform,
        offset: u32,
        length: u32,
    ) -> Result<View<'_>, MemoryError> {
        if self.copy.is_empty() {
            self.copy = vec![0; COPY as usize / 8];
        }
        let all = &mut self.copy.as_mut_bytes()[..length as usize];
        let mut copied = 0;
        while copied < all.len() {
            let at = offset + copied as u32;
            let page = self.pages[(at / PAGE_SIZE) as usize % self.pages.len()];
            let within = at % PAGE_SIZE;
            let count = (all.len() - copied).min((PAGE_SIZE - within) as usize);
            let part = &mut all[copied..copied + count];
            match platform.read(page + u64::from(within), part) {
                Ok(()) => copied += count,
                Err(error) if copied == 0 => return Err(error),
                Err(MemoryError) => break,
            }
        }
        Ok(View::of(&self.copy[..copied / 8]))
    }

    /// Writes entries in order from `offset` on, a multiple of their length;
    /// none lies beyond the end. A driver that sees the last word of an entry,
    /// which is written in one piece, sees the others. Returns how many entries
    /// could not be written.
    #[inline(always)]
    pub fn publish<const WORDS: usize>(
        &mut self,
        platform: &mut impl Platform,
        offset: u32,
        count: usize,
        entries: impl Iterator<Item = ([u64; WORDS], u64)>,
    ) -> usize {
        if self.is_unused {
            self.lay(platform);
        }
        if let Some(window) = self.usable_window() {
            let places = window.places(offset, count).expect("entries in the ring");
            for (place, (words, last)) in places.zip(entries) {
                place.publish(words, last);
            }
            return 0;
        }
        let mut failed = 0;
        for (index, (words, last)) in entries.take(count).enumerate() {
            let at = offset + (index * 8 * (WORDS + 1)) as u32;
            failed += usize::from(self.write(platform, at, &words, last).is_err());
        }
        failed
    }

    fn write(
        &self,
        platform: &mut impl Platform,
        offset: u32,
        words: &[u64],
        last: u64,
    ) -> Result<(), MemoryError> {
        let page = self.pages[(offset / PAGE_SIZE) as usize];
        let address = page + u64::from(offset % PAGE_SIZE);
        platform.write(address, words.as_bytes())?;
        platform.write(address + 8 * words.len() as u64, &last.to_le_bytes())
    }
}
