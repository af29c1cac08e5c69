//! DMA regions: the guest pages that a driver registers, the only memory
//! that queues are made of.

use alloc::vec::Vec;

use slab::Slab;

use crate::state::{self as saved, Pages};
use device_kit::envelope::{RestoreError, ensure};
use device_kit::platform::Platform;
use mana_wire::gdma::Status;
use mana_wire::queue::PAGE_SIZE;

/// The most regions at a time that no queue uses yet.
const MAX_REGIONS: usize = 1024;
/// The most pages of one region: 16 MiB.
const MAX_REGION_PAGES: u32 = 4096;
/// The most pages of all regions and queues together: 256 MiB.
pub const MAX_PAGES: usize = 65536;
/// Pages of a hardware channel's queues, which no region was registered for.
const CHANNEL_PAGES: usize = 4;

/// Set in every region's handle, so that none is zero
/// (`GDMA_INVALID_DMA_REGION`) and no other handle is one.
const REGION_TAG: u64 = 0x4452 << 48;
/// More regions than a device makes in its life.
const LAST_NUMBER: u64 = 1 << 48;

/// A region that no queue uses yet.
#[derive(Debug)]
struct Region {
    /// In bytes.
    length: u64,
    offset_in_page: u32,
    page_count: u32,
    /// May still be short of `page_count`.
    pages: Vec<u64>,
    /// Which one it is: the lower part of its handle.
    number: u64,
}

/// The registered regions, and how many pages are in use altogether.
#[derive(Debug, Default)]
pub struct DmaRegions {
    regions: Slab<Region>,
    /// Number of the last region.
    sequence: u64,
    /// Pages of regions and of the queues made from them.
    pages: usize,
}

/// What a driver asks a new region to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes.
    pub length: u64,
    /// Offset of the first byte in the first page.
    pub offset_in_page: u32,
    /// Pages of the whole region.
    pub page_count: u32,
}

impl Shape {
    fn check(self) -> Result<(), Status> {
        let end = u64::from(self.offset_in_page).checked_add(self.length);
        let pages = end.map(|end| end.div_ceil(PAGE_SIZE.into()));
        if self.length == 0
            || self.offset_in_page >= PAGE_SIZE
            || pages != Some(self.page_count.into())
        {
            return Err(Status::InvalidParameter);
        }
        if self.page_count > MAX_REGION_PAGES {
            Err(Status::NoResources)
        } else {
            Ok(())
        }
    }
}

impl DmaRegions {
    /// Registers a region with its first pages. Returns its handle, and
    /// whether it has all its pages.
    ///
    /// # Errors
    ///
    /// The status to answer with; nothing is registered.
    pub fn create(
        &mut self,
        platform: &mut impl Platform,
        shape: Shape,
        pages: &[u64],
    ) -> Result<(u64, bool), Status> {
        shape.check()?;
        if self.regions.len() >= MAX_REGIONS || self.pages + shape.page_count as usize > MAX_PAGES {
            return Err(Status::NoResources);
        }
        let number = self.sequence + 1;
        let mut region = Region {
            length: shape.length,
            offset_in_page: shape.offset_in_page,
            page_count: shape.page_count,
            pages: Vec::with_capacity(shape.page_count as usize),
            number,
        };
        region.extend(platform, pages)?;
        self.pages += shape.page_count as usize;
        self.sequence = number;
        let complete = region.is_complete();
        self.regions.insert(region);
        Ok((REGION_TAG | number, complete))
    }

    /// Adds pages to a region. Returns whether it has all its pages now.
    ///
    /// # Errors
    ///
    /// The status to answer with; the region stays as it was.
    pub fn add_pages(
        &mut self,
        platform: &mut impl Platform,
        handle: u64,
        pages: &[u64],
    ) -> Result<bool, Status> {
        let key = self.find(handle)?;
        let region = &mut self.regions[key];
        region.extend(platform, pages)?;
        Ok(region.is_complete())
    }

    /// Forgets a region.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is none with this handle.
    pub fn destroy(&mut self, handle: u64) -> Result<(), Status> {
        let key = self.find(handle)?;
        let region = self.regions.remove(key);
        self.pages -= region.page_count as usize;
        Ok(())
    }

    /// Whether a queue of `size` bytes can be made of a region.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub fn check_queue(&self, handle: u64, size: u32) -> Result<(), Status> {
        let region = &self.regions[self.find(handle)?];
        if !region.is_complete() {
            return Err(Status::InvalidState);
        }
        let fits = region.offset_in_page == 0
            && region.length == u64::from(size)
            && size >= PAGE_SIZE
            && size.is_power_of_two();
        if fits {
            Ok(())
        } else {
            Err(Status::InvalidParameter)
        }
    }

    /// Takes the pages of a region for a queue; the region is gone, its pages
    /// stay counted until [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// As [`check_queue`](Self::check_queue).
    pub fn take_for_queue(&mut self, handle: u64, size: u32) -> Result<Vec<u64>, Status> {
        self.check_queue(handle, size)?;
        let key = self.find(handle)?;
        Ok(self.regions.remove(key).pages)
    }

    /// Pages that a queue no longer uses.
    pub fn release(&mut self, pages: &[u64]) {
        self.pages = self.pages.saturating_sub(pages.len());
    }

    /// Forgets all regions.
    pub fn clear(&mut self) {
        self.regions.clear();
        self.pages = 0;
    }

    /// Number of regions that no queue uses, and of pages in use altogether.
    pub fn usage(&self) -> (usize, usize) {
        (self.regions.len(), self.pages)
    }

    fn find(&self, handle: u64) -> Result<usize, Status> {
        let mut regions = self.regions.iter();
        let found = regions.find(|(_, region)| REGION_TAG | region.number == handle);
        found.map(|(key, _)| key).ok_or(Status::InvalidHandle)
    }

    /// The regions, to be saved.
    pub fn save(&self) -> saved::Regions {
        let region = |region: &Region| saved::Region {
            number: region.number,
            length: region.length,
            offset_in_page: region.offset_in_page,
            page_count: region.page_count,
            pages: Pages::from_addresses(&region.pages),
        };
        let mut regions: Vec<_> = self.regions.iter().map(|(_, r)| region(r)).collect();
        regions.sort_by_key(|region| region.number);
        saved::Regions {
            sequence: self.sequence,
            regions,
        }
    }

    /// Regions that were saved, without those that queues are made of.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`].
    pub fn restore(saved: &saved::Regions) -> Result<Self, RestoreError> {
        ensure(saved.regions.len() <= MAX_REGIONS, "too many regions")?;
        ensure(saved.sequence < LAST_NUMBER, "an impossible region")?;
        let mut restored = Self {
            sequence: saved.sequence,
            ..Self::default()
        };
        let mut last = 0;
        for region in &saved.regions {
            let number = region.number;
            ensure(
                number > last && number <= saved.sequence,
                "regions out of order",
            )?;
            last = number;
            let shape = Shape {
                length: region.length,
                offset_in_page: region.offset_in_page,
                page_count: region.page_count,
            };
            ensure(shape.check().is_ok(), "an impossible region")?;
            let pages = region.pages.addresses(region.page_count as usize)?;
            restored.reserve(region.page_count as usize)?;
            restored.regions.insert(Region {
                length: region.length,
                offset_in_page: region.offset_in_page,
                page_count: region.page_count,
                pages,
                number,
            });
        }
        Ok(restored)
    }

    /// The pages of a restored queue: a power of two of at least one.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`].
    pub fn restore_queue(&mut self, pages: &Pages) -> Result<Vec<u64>, RestoreError> {
        let pages = pages.addresses(MAX_REGION_PAGES as usize)?;
        ensure(pages.len().is_power_of_two(), "an impossible queue size")?;
        self.reserve(pages.len())?;
        Ok(pages)
    }

    fn reserve(&mut self, pages: usize) -> Result<(), RestoreError> {
        self.pages += pages;
        // The channel's own are taken off the account once it is restored.
        ensure(self.pages <= MAX_PAGES + CHANNEL_PAGES, "too many pages")
    }
}

impl Region {
    fn is_complete(&self) -> bool {
        self.pages.len() == self.page_count as usize
    }

    /// Adds pages if every one is aligned, guest memory, and new.
    fn extend(&mut self, platform: &mut impl Platform, pages: &[u64]) -> Result<(), Status> {
        if pages.is_empty() || self.pages.len() + pages.len() > self.page_count as usize {
            return Err(Status::InvalidParameter);
        }
        if pages
            .iter()
            .any(|page| !page.is_multiple_of(PAGE_SIZE.into()))
        {
            return Err(Status::InvalidParameter);
        }
        let mut all: Vec<u64> = self.pages.iter().chain(pages).copied().collect();
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Status::InvalidParameter);
        }
        let mut probe = [0; 8];
        if pages
            .iter()
            .any(|page| platform.read(*page, &mut probe).is_err())
        {
            return Err(Status::InvalidAddress);
        }
        self.pages.extend_from_slice(pages);
        Ok(())
    }
}
