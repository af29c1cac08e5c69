//! The memory of a queue: pages of the guest, reached through a window where
//! there is one, and by copies where there is none.

use alloc::vec::Vec;

use zerocopy::IntoBytes;

use crate::PAGE_SIZE;
use crate::platform::{MemoryError, Platform};
use crate::window::Window;

/// How a queue's entries are used, which decides how its pages are laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Entries of one size never straddle the end.
    Fixed,
    /// An entry may go on at the beginning.
    Wrapping,
}

/// The memory of a queue: a power of two of at least one page.
#[derive(Debug)]
pub struct Ring {
    access: Access,
    /// Whether the window, if there is one, shows guest memory: the VMM may have
    /// taken it away for a while.
    present: bool,
    size: u32,
    layout: Layout,
}

#[derive(Debug)]
enum Access {
    Window { window: Window, pages: Vec<u64> },
    Copy { pages: Vec<u64> },
}

impl Ring {
    /// Takes the pages of a region, whose number is a power of two.
    pub fn new(platform: &mut impl Platform, pages: Vec<u64>, layout: Layout) -> Self {
        let repeats = match layout {
            Layout::Fixed => 1,
            Layout::Wrapping => 2,
        };
        let size = pages.len() as u32 * PAGE_SIZE;
        let access = match platform.map_window(&pages, repeats) {
            Some(window) => Access::Window { window, pages },
            None => Access::Copy { pages },
        };
        Self {
            access,
            present: true,
            size,
            layout,
        }
    }

    /// Notes that the window shows guest memory again, or does not any more.
    /// Without, the ring is accessed by copies, which fail where memory is gone.
    pub fn set_present(&mut self, present: bool) {
        self.present = present;
    }

    /// Gives the pages back.
    pub fn release(self, platform: &mut impl Platform) -> Vec<u64> {
        match self.access {
            Access::Window { window, pages } => {
                platform.unmap_window(window);
                pages
            }
            Access::Copy { pages } => pages,
        }
    }

    /// Size in bytes.
    #[inline]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The window, if it can be used.
    #[inline]
    pub fn window(&self) -> Option<&Window> {
        match &self.access {
            Access::Window { window, .. } if self.present => Some(window),
            _ => None,
        }
    }

    /// The window, even if it shows no guest memory at the moment.
    pub fn laid(&self) -> Option<&Window> {
        match &self.access {
            Access::Window { window, .. } => Some(window),
            Access::Copy { .. } => None,
        }
    }

    /// Whether a window is laid.
    pub fn has_window(&self) -> bool {
        self.laid().is_some()
    }

    /// How its pages are laid.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Guest pages in order.
    pub fn pages(&self) -> &[u64] {
        match &self.access {
            Access::Window { pages, .. } | Access::Copy { pages } => pages,
        }
    }

    /// Copies words from a position, which may lie beyond the end and wraps;
    /// a multiple of 8.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the VMM took a page away.
    #[inline]
    pub fn read(
        &self,
        platform: &mut impl Platform,
        position: u32,
        words: &mut [u64],
    ) -> Result<(), MemoryError> {
        let offset = position & (self.size - 1);
        match self.window() {
            Some(window) if window.load(offset, words) => Ok(()),
            Some(_) => Err(MemoryError),
            None => read_pages(platform, self.pages(), offset, words),
        }
    }

    /// Writes an entry at `position`, a multiple of its length: `words`, and
    /// then, in one piece, `last`.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the VMM took a page away.
    #[inline]
    pub fn publish(
        &self,
        platform: &mut impl Platform,
        position: u32,
        words: &[u64],
        last: u64,
    ) -> Result<(), MemoryError> {
        let offset = position & (self.size - 1);
        match self.window() {
            Some(window) if window.publish(offset, words, last) => Ok(()),
            Some(_) => Err(MemoryError),
            None => {
                let page = self
                    .pages()
                    .get((offset / PAGE_SIZE) as usize)
                    .ok_or(MemoryError)?;
                let address = page + u64::from(offset % PAGE_SIZE);
                platform.write(address, words.as_bytes())?;
                platform.write(address + 8 * words.len() as u64, &last.to_le_bytes())
            }
        }
    }
}

fn read_pages(
    platform: &mut impl Platform,
    pages: &[u64],
    offset: u32,
    words: &mut [u64],
) -> Result<(), MemoryError> {
    let mut bytes = words.as_mut_bytes();
    let mut offset = offset;
    while !bytes.is_empty() {
        let index = (offset / PAGE_SIZE) as usize % pages.len();
        let within = offset % PAGE_SIZE;
        let (now, later) = bytes.split_at_mut(bytes.len().min((PAGE_SIZE - within) as usize));
        platform.read(pages[index] + u64::from(within), now)?;
        offset += now.len() as u32;
        bytes = later;
    }
    Ok(())
}
