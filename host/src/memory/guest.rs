//! The regions that the VMM shared, and their budgets.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use super::budget::{Budget, Share};
use super::error::MapError;
use super::file::{self, FileId, GuestFile, MappedFile};
use super::limits::{MAX_FILES, MAX_MAPPED_BYTES, MAX_REGIONS, MAX_REGIONS_OF_PROCESS};
use super::range::MemoryRange;
use super::region::{Backing, Misfit, Reach, Region, RegionInfo, Regions, SharedRegion};
use super::unit::PAGE_SIZE;

/// How many regions are checked first.
pub(super) const NEAR: usize = 4;
/// With more regions than this, the ones to check first are not chosen again at each change.
pub(super) const FEW: usize = 64;

/// The location of a guest page in a file, for mapping it into a window.
#[derive(Clone, Debug)]
pub struct PageSource {
    /// The file that backs the page.
    pub file: Arc<File>,
    /// Offset of the page in the file.
    pub offset: u64,
}

/// Why a guest page can't be mapped into a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWindow {
    /// The VMM shared no writable page there.
    NotMemory,
    /// It is guest memory that can't be in a window: part of a larger page, or of no file.
    Unsupported,
}

/// The guest's memory, as far as the VMM shared it. A clone is the same memory, and keeps it
/// mapped.
#[derive(Clone, Debug)]
pub struct GuestMemory {
    /// Copied on a change while a clone shares it.
    pub(super) regions: Arc<Regions>,
    /// The largest regions. All of them are in `regions`, which keeps them mapped.
    pub(super) near: [Reach; NEAR],
    /// Set when pages of a file are lost.
    lost: Arc<AtomicBool>,
    budgets: Budgets,
}

/// The budgets for regions and mappings.
#[derive(Clone, Debug)]
pub(super) struct Budgets {
    pub regions: Arc<Budget>,
    pub bytes: Arc<Budget>,
    /// Of the device's own.
    pub files: Arc<Budget>,
}

impl Default for GuestMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestMemory {
    /// The most regions that are accepted, as many as a vfio-user client may assume
    /// (`max_dma_maps`). A VMM uses a few dozen, and with an IOMMU as many as
    /// the guest has buffers.
    pub const MAX_REGIONS: usize = MAX_REGIONS;

    /// Creates memory without any region.
    pub fn new() -> Self {
        static REGIONS: LazyLock<Arc<Budget>> =
            LazyLock::new(|| Budget::new(MAX_REGIONS_OF_PROCESS));
        static BYTES: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(MAX_MAPPED_BYTES));
        Self::within(Budgets {
            regions: REGIONS.clone(),
            bytes: BYTES.clone(),
            files: Budget::new(MAX_FILES),
        })
    }

    pub(super) fn within(budgets: Budgets) -> Self {
        Self {
            regions: Arc::default(),
            near: [Reach::NOWHERE; NEAR],
            lost: Arc::default(),
            budgets,
        }
    }

    /// Maps a region that a file descriptor backs.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map(
        &mut self,
        address: u64,
        size: u64,
        file: File,
        offset: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let file = GuestFile::new(file, address, size)?;
        self.map_file(address, size, file, offset, writable)
    }

    /// Maps a region of a file whose descriptor was checked. The check may take long, and needs no
    /// lock.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_file(
        &mut self,
        address: u64,
        size: u64,
        file: GuestFile,
        offset: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let share = self.check_new(address, size)?;
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned(address, size));
        }
        let wraps = MapError::Wraps(address, size);
        let need = offset.checked_add(size).ok_or(wraps)?;
        let have = file.length();
        if have < need {
            return Err(MapError::FileTooShort {
                address,
                have,
                need,
            });
        }
        let file = self.mapped(address, size, file, need)?;
        if writable && !file.is_writable() {
            return Err(MapError::ReadOnlyFile(address, size));
        }
        let backing = Backing::File { file, offset };
        self.insert(Region::new(address, size, backing, writable, share));
        Ok(())
    }

    /// Adds a region of memory that the caller has mapped already. Pages of it that are lost are the
    /// caller's responsibility.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_range(
        &mut self,
        address: u64,
        range: Arc<dyn MemoryRange>,
        writable: bool,
    ) -> Result<(), MapError> {
        let size = range.len() as u64;
        let share = self.check_new(address, size)?;
        let file = range.file().map(|(file, offset)| {
            if !offset.is_multiple_of(PAGE_SIZE) {
                return Err(MapError::Unaligned(address, size));
            }
            let own = file::duplicate(file);
            let own = own.map_err(|e| MapError::Mmap(address, size, e.to_string()))?;
            Ok((own, offset))
        });
        let file = file.transpose()?;
        let backing = Backing::Range {
            _range: range,
            file,
        };
        self.insert(Region::new(address, size, backing, writable, share));
        Ok(())
    }

    /// Adds a region that came without a file descriptor, and is out of reach.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_unreachable(&mut self, address: u64, size: u64) -> Result<(), MapError> {
        let share = self.check_new(address, size)?;
        self.insert(Region::new(address, size, Backing::None, false, share));
        Ok(())
    }

    /// Removes all regions in a range, and returns the range. Files without a region are unmapped
    /// and closed.
    ///
    /// # Errors
    ///
    /// Nothing changes if a region is only partly in the range, or none is.
    pub fn unmap(&mut self, address: u64, size: u64) -> Result<Vec<Range<u64>>, MapError> {
        let wraps = MapError::Wraps(address, size);
        let range = address..address.checked_add(size).ok_or(wraps)?;
        match self.regions.check_whole(&range) {
            Ok(()) => {}
            Err(Misfit::Empty) => return Err(MapError::NotMapped(address, size)),
            Err(Misfit::Part(region)) => {
                let length = region.end - region.start;
                return Err(MapError::Cuts(address, size, region.start, length));
            }
        }
        Arc::make_mut(&mut self.regions).remove(&range);
        self.choose_near();
        Ok(vec![range])
    }

    /// Removes all regions, and returns the range of all addresses, if there were any.
    pub fn clear(&mut self) -> Vec<Range<u64>> {
        self.near = [Reach::NOWHERE; NEAR];
        self.lost = Arc::default();
        let gone = std::mem::take(&mut self.regions);
        let everywhere = (gone.len() > 0).then_some(0..u64::MAX);
        everywhere.into_iter().collect()
    }

    /// Returns where the guest page at `address` is in its file.
    ///
    /// # Errors
    ///
    /// See [`NoWindow`].
    pub fn page(&self, address: u64) -> Result<PageSource, NoWindow> {
        let region = self.regions.find(address).ok_or(NoWindow::NotMemory)?;
        let info = region.info();
        if !info.writable || !address.is_multiple_of(PAGE_SIZE) {
            return Err(NoWindow::NotMemory);
        }
        match region.file() {
            Some((file, offset)) if info.windows => Ok(PageSource {
                file: file.clone(),
                offset: offset + (address - info.range.start),
            }),
            _ => Err(NoWindow::Unsupported),
        }
    }

    /// Returns the regions that a VMM shared by files, or announced without sharing them, for
    /// another process; those that the caller has mapped itself are not included. All regions of a
    /// file have the same descriptor.
    pub(crate) fn shared(&self) -> Vec<SharedRegion> {
        let mut files: BTreeMap<FileId, Arc<File>> = BTreeMap::new();
        let shared = |region: &Region| {
            let (mut shared, id) = shared_region(region)?;
            if let (Some((file, _)), Some(id)) = (&mut shared.file, id) {
                *file = files.entry(id).or_insert_with(|| file.clone()).clone();
            }
            Some(shared)
        };
        self.regions.iter().filter_map(shared).collect()
    }

    /// Returns the region at an address as [`shared`](Self::shared) does, and which file it is in.
    pub(crate) fn shared_at(&self, address: u64) -> Option<(SharedRegion, Option<FileId>)> {
        shared_region(self.regions.find(address)?)
    }

    /// Returns the regions in address order.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = RegionInfo> {
        self.regions.iter().map(Region::info)
    }

    /// Says which pages of a file were lost while it was mapped, if any: it was shrunk, or there are
    /// no huge pages for it. Accesses since then read zeros, so every user of this memory must end.
    #[inline]
    pub fn lost(&self) -> Option<String> {
        if !self.lost.load(Ordering::Acquire) {
            return None;
        }
        self.describe_lost()
    }

    fn describe_lost(&self) -> Option<String> {
        let lost = self.regions.iter().find(|region| match &region.backing {
            Backing::File { file, .. } => file.is_lost(),
            _ => false,
        });
        lost.map(|region| {
            let Range { start, end } = region.info().range;
            let size = end - start;
            format!(
                "the file behind guest memory {start:#x}+{size:#x} lost pages while it was \
                 shared: it became shorter, or there are no pages for it"
            )
        })
    }

    /// Returns the mapping of a file, at least up to `need`.
    fn mapped(
        &self,
        address: u64,
        size: u64,
        file: GuestFile,
        need: u64,
    ) -> Result<Arc<MappedFile>, MapError> {
        if let Some(mapped) = self.regions.mapped(file.id())
            && mapped.serves(need)
        {
            return Ok(mapped);
        }
        let bytes = file.mappable();
        let one = self.budgets.files.take(1).ok_or(MapError::TooManyFiles)?;
        let too_large = MapError::TooLarge {
            address,
            size: bytes,
        };
        let bytes = self.budgets.bytes.take(bytes).ok_or(too_large)?;
        let mapped = MappedFile::new(file, &self.lost, [one, bytes]);
        let mapped = mapped.map_err(|e| MapError::Mmap(address, size, e.to_string()))?;
        Ok(Arc::new(mapped))
    }

    /// Checks that a region can be added, and counts it.
    fn check_new(&self, address: u64, size: u64) -> Result<Share, MapError> {
        if size == 0 || !address.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned(address, size));
        }
        let wraps = MapError::Wraps(address, size);
        let end = address.checked_add(size).ok_or(wraps)?;
        if let Some(other) = self.regions.overlapping(&(address..end)) {
            return Err(MapError::Overlaps(address, size, other));
        }
        if self.regions.len() >= Self::MAX_REGIONS {
            return Err(MapError::TooMany);
        }
        let share = self.budgets.regions.take(1);
        share.ok_or(MapError::TooManyInProcess)
    }

    fn insert(&mut self, region: Region) {
        Arc::make_mut(&mut self.regions).insert(region);
        self.choose_near();
    }

    /// Chooses the regions to check first: the largest, while there are few. Otherwise keeps those
    /// that still exist.
    fn choose_near(&mut self) {
        let Self { regions, near, .. } = self;
        if regions.len() > FEW {
            for reach in near {
                if !reach.is_in(regions) {
                    *reach = Reach::NOWHERE;
                }
            }
            return;
        }
        let mut all: Vec<Reach> = regions.iter().map(|region| region.reach).collect();
        all.sort_by_key(|reach| Reverse(reach.length()));
        all.resize(NEAR, Reach::NOWHERE);
        near.copy_from_slice(&all);
    }
}

/// Returns a region for another process, and which file it is in; None if the caller has mapped
/// it itself.
fn shared_region(region: &Region) -> Option<(SharedRegion, Option<FileId>)> {
    let (file, id) = match &region.backing {
        Backing::File { file, offset } => (Some((file.file().clone(), *offset)), Some(file.id())),
        Backing::Range { .. } => return None,
        Backing::None => (None, None),
    };
    let info = region.info();
    let shared = SharedRegion {
        address: info.range.start,
        size: info.range.end - info.range.start,
        writable: info.writable,
        file,
    };
    Some((shared, id))
}
