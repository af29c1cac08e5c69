//! DMA regions: the guest pages that a driver registers. Queues are made of these only.

use alloc::vec::Vec;

use device_kit::Platform;
use hashbrown::HashMap;
use mana_wire::gdma::Status;
use mana_wire::queue::PAGE_SIZE;

use crate::limits::{MAX_PAGES, MAX_REGIONS, Shape};
use crate::state::{self as saved, Pages};

/// Tag in every region's handle, and in no other. It keeps handles from being zero
/// (`GDMA_INVALID_DMA_REGION`).
const REGION_TAG: u64 = 0x4452 << 48;
/// A region that no queue uses yet.
#[derive(Debug)]
struct Region {
    shape: Shape,
    /// The pages so far, until there are as many as the shape says.
    pages: Vec<u64>,
}

/// The registered regions, and how many pages are in use altogether.
#[derive(Debug, Default)]
pub struct DmaRegions {
    /// Regions by number, which is the lower part of a handle.
    regions: HashMap<u64, Region>,
    /// Number of the last region.
    sequence: u64,
    /// Pages of regions and of the queues made from them.
    pages: usize,
}

/// A region that was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its handle.
    pub handle: u64,
    /// Whether it has all its pages.
    pub is_complete: bool,
}

impl DmaRegions {
    /// Registers a region with its first pages.
    ///
    /// # Errors
    ///
    /// Those of [`Shape::check`]; [`Status::NoResources`] if there are too many regions
    /// or pages; for the pages, [`Status::InvalidParameter`] if they are not aligned,
    /// too many for the region or listed twice, [`Status::InvalidAddress`] if they are
    /// not guest memory. Nothing is registered then.
    pub fn create(
        &mut self,
        platform: &mut impl Platform,
        shape: Shape,
        pages: &[u64],
    ) -> Result<Created, Status> {
        shape.check()?;
        if self.regions.len() >= MAX_REGIONS || self.pages + shape.page_count as usize > MAX_PAGES {
            return Err(Status::NoResources);
        }
        let number = self.sequence + 1;
        let mut region = Region {
            shape,
            pages: Vec::with_capacity(shape.page_count as usize),
        };
        region.extend(platform, pages)?;
        self.pages += shape.page_count as usize;
        self.sequence = number;
        let is_complete = region.is_complete();
        self.regions.insert(number, region);
        Ok(Created {
            handle: REGION_TAG | number,
            is_complete,
        })
    }

    /// Adds pages to a region. Returns whether it now has all its pages.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create), and [`Status::InvalidHandle`] if there is no
    /// such region. The region is unchanged.
    pub fn add_pages(
        &mut self,
        platform: &mut impl Platform,
        handle: u64,
        pages: &[u64],
    ) -> Result<bool, Status> {
        let number = number(handle);
        let region = self.regions.get_mut(&number).ok_or(Status::InvalidHandle)?;
        region.extend(platform, pages)?;
        Ok(region.is_complete())
    }

    /// Forgets a region.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is none with this handle.
    pub fn destroy(&mut self, handle: u64) -> Result<(), Status> {
        let region = self.regions.remove(&number(handle));
        self.pages -= region.ok_or(Status::InvalidHandle)?.shape.page_count as usize;
        Ok(())
    }

    /// Checks that a queue of `size` bytes can be made of a region.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is no such region, [`Status::InvalidState`]
    /// if it lacks pages, [`Status::InvalidParameter`] if its size is another.
    pub fn check_queue(&self, handle: u64, size: u32) -> Result<(), Status> {
        let region = self.regions.get(&number(handle));
        let region = region.ok_or(Status::InvalidHandle)?;
        if !region.is_complete() {
            return Err(Status::InvalidState);
        }
        let is_fitting = region.shape.offset_in_page == 0
            && region.shape.length == u64::from(size)
            && size >= PAGE_SIZE
            && size.is_power_of_two();
        if is_fitting {
            Ok(())
        } else {
            Err(Status::InvalidParameter)
        }
    }

    /// Removes a region and returns its pages for a queue. They stay counted until
    /// [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// As [`check_queue`](Self::check_queue).
    pub fn take_for_queue(&mut self, handle: u64, size: u32) -> Result<Vec<u64>, Status> {
        self.check_queue(handle, size)?;
        let region = self.regions.remove(&number(handle));
        region.map(|it| it.pages).ok_or(Status::InvalidHandle)
    }

    /// Removes pages that a queue no longer uses from the account.
    pub fn release(&mut self, pages: &[u64]) {
        self.pages = self.pages.saturating_sub(pages.len());
    }

    /// Forgets all regions.
    pub fn clear(&mut self) {
        self.regions.clear();
        self.pages = 0;
    }

    /// Returns the number of regions that no queue uses, and of all pages in use.
    pub fn usage(&self) -> (usize, usize) {
        (self.regions.len(), self.pages)
    }

    /// Returns the regions to be saved.
    pub fn save(&self) -> saved::Regions {
        let region = |(number, region): (&u64, &Region)| saved::Region {
            number: *number,
            length: region.shape.length,
            offset_in_page: region.shape.offset_in_page,
            page_count: region.shape.page_count,
            pages: Pages::from_addresses(&region.pages),
        };
        let mut regions: Vec<_> = self.regions.iter().map(region).collect();
        regions.sort_by_key(|region| region.number);
        saved::Regions {
            sequence: self.sequence,
            regions,
        }
    }

    /// Continues with regions that were saved and checked, without those that
    /// queues are made of.
    pub fn resume(saved: &saved::Regions) -> Self {
        let region = |region: &saved::Region| {
            let shape = region.shape();
            let pages = region.pages.addresses();
            (region.number, Region { shape, pages })
        };
        let regions: HashMap<_, _> = saved.regions.iter().map(region).collect();
        let pages = regions.values().map(|it| it.shape.page_count as usize);
        Self {
            sequence: saved.sequence,
            pages: pages.sum(),
            regions,
        }
    }

    /// Counts pages that a restored queue uses.
    pub fn count(&mut self, pages: &[u64]) {
        self.pages += pages.len();
    }
}

/// Returns the number of the region with a handle; for a handle of anything else, a
/// number that no region has.
fn number(handle: u64) -> u64 {
    match handle & (0xffff << 48) {
        REGION_TAG => handle ^ REGION_TAG,
        _ => 0,
    }
}

impl Region {
    fn is_complete(&self) -> bool {
        self.pages.len() == self.shape.page_count as usize
    }

    /// Adds pages if every one is aligned, guest memory, and new.
    fn extend(&mut self, platform: &mut impl Platform, pages: &[u64]) -> Result<(), Status> {
        if pages.is_empty() || self.pages.len() + pages.len() > self.shape.page_count as usize {
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
