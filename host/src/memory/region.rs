//! Regions of guest memory, ordered by address.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use vm_memory::VolatileSlice;

use super::budget::Share;
use super::error::Access;
use super::file::{FileId, MappedFile};
use super::limits::MAX_FILES;
use super::range::MemoryRange;
use super::unit::PAGE_SIZE;

/// Where guest addresses are mapped in this process.
///
/// It keeps nothing mapped: it is only ever part of a [`Region`] or a copy of that in the
/// [`GuestMemory`](super::GuestMemory) that has the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    start: u64,
    length: u64,
    /// None if it is out of reach.
    base: Option<NonNull<u8>>,
    writable: bool,
}

// SAFETY: an address of memory that others write at any time, which is accessed by
// volatile accesses only, from whatever thread.
unsafe impl Send for Reach {}
// SAFETY: as for `Send`.
unsafe impl Sync for Reach {}

impl Reach {
    /// No addresses at all.
    pub const NOWHERE: Self = Self {
        start: 0,
        length: 0,
        base: None,
        writable: false,
    };

    /// Returns whether an address is in it.
    #[inline]
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.length
    }

    /// Returns one past the last address.
    #[inline]
    pub fn end(&self) -> u64 {
        self.start + self.length
    }

    /// Returns how many addresses there are.
    #[inline]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns whether it belongs to one of these regions.
    pub fn is_in(&self, regions: &Regions) -> bool {
        let region = regions.by_address.get(&self.start);
        region.is_some_and(|region| region.reach == *self)
    }

    /// Returns the `length` bytes from `address` on, which is contained; None if they exceed the
    /// region or can't be accessed.
    #[inline]
    pub fn slice(&self, address: u64, length: u64, access: Access) -> Option<VolatileSlice<'_>> {
        let offset = address - self.start;
        let base = self.base?;
        if length > self.length - offset || (access == Access::Write && !self.writable) {
            return None;
        }
        // SAFETY: the range lies in the region, all of which is mapped (with the rights that
        // it was checked for) while there is a `GuestMemory` that has the region, and
        // this borrows from it. All others access it as volatile memory too.
        Some(unsafe { VolatileSlice::new(base.add(offset as usize).as_ptr(), length as usize) })
    }
}

/// What backs a region.
#[derive(Clone, Debug)]
pub(super) enum Backing {
    /// A part of a file that is mapped here.
    File {
        file: Arc<MappedFile>,
        /// Where in the file the region begins.
        offset: u64,
    },
    /// Memory of the embedder, and possibly the file that backs it.
    Range {
        _range: Arc<dyn MemoryRange>,
        file: Option<(Arc<File>, u64)>,
    },
    /// The VMM gave no file descriptor: known, but out of reach.
    None,
}

/// A region of guest memory.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub reach: Reach,
    pub backing: Backing,
    _share: Share,
}

/// A description of a region, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Guest addresses.
    pub range: Range<u64>,
    /// Whether the device can access it.
    pub reachable: bool,
    /// Whether it may be written to.
    pub writable: bool,
    /// The size of its pages.
    pub page_size: u64,
    /// Whether there can be ring windows over it.
    pub windows: bool,
}

/// A region of guest memory as another process maps it.
#[derive(Clone, Debug)]
pub(crate) struct SharedRegion {
    /// Guest address of the first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Whether the device may write it.
    pub writable: bool,
    /// The file that holds it, and the offset of the first byte there; None if it is out of
    /// reach.
    pub file: Option<(Arc<File>, u64)>,
}

impl Region {
    /// Makes a region of `size` bytes.
    pub fn new(address: u64, size: u64, backing: Backing, writable: bool, share: Share) -> Self {
        let base = match &backing {
            Backing::File { file, offset } => {
                let base = file.mapping().base();
                // SAFETY: `GuestMemory` checked that the mapping has the region's bytes.
                Some(unsafe { base.add(*offset as usize) })
            }
            Backing::Range { _range: range, .. } => Some(range.base()),
            Backing::None => None,
        };
        let reach = Reach {
            start: address,
            length: size,
            base,
            writable: writable && base.is_some(),
        };
        Self {
            reach,
            backing,
            _share: share,
        }
    }

    /// Returns the size of its pages.
    pub fn page_size(&self) -> u64 {
        match &self.backing {
            Backing::File { file, .. } => file.page_size(),
            Backing::Range { .. } | Backing::None => PAGE_SIZE,
        }
    }

    /// Returns the file that it is in, and where in it the region begins.
    pub fn file(&self) -> Option<(&Arc<File>, u64)> {
        match &self.backing {
            Backing::File { file, offset } => Some((file.file(), *offset)),
            Backing::Range { file, .. } => file.as_ref().map(|(file, offset)| (file, *offset)),
            Backing::None => None,
        }
    }

    /// Returns its description.
    pub fn info(&self) -> RegionInfo {
        let Reach {
            start, writable, ..
        } = self.reach;
        RegionInfo {
            range: start..self.reach.end(),
            reachable: self.reach.base.is_some(),
            writable,
            page_size: self.page_size(),
            windows: writable && self.file().is_some() && self.page_size() == PAGE_SIZE,
        }
    }
}

/// All regions, and the files that they are in.
#[derive(Clone, Debug, Default)]
pub(super) struct Regions {
    /// By address; they do not overlap.
    by_address: BTreeMap<u64, Region>,
    /// The newest mapping of each file that a region is in.
    files: BTreeMap<FileId, Weak<MappedFile>>,
}

/// Why a range of addresses does not consist of whole regions.
#[derive(Debug)]
pub(super) enum Misfit {
    /// There is no region.
    Empty,
    /// This one is only partly in the range.
    Part(Range<u64>),
}

impl Regions {
    /// Returns the region that has an address.
    pub fn find(&self, address: u64) -> Option<&Region> {
        let (_, region) = self.by_address.range(..=address).next_back()?;
        region.reach.contains(address).then_some(region)
    }

    /// Returns the location of the region that has an address of this range.
    pub fn overlapping(&self, range: &Range<u64>) -> Option<u64> {
        let (start, region) = self.by_address.range(..range.end).next_back()?;
        (range.start < region.reach.end()).then_some(*start)
    }

    /// Adds a region, which overlaps no other.
    pub fn insert(&mut self, region: Region) {
        if let Backing::File { file, .. } = &region.backing {
            if self.files.len() >= MAX_FILES as usize {
                // Some mappings that only a clone had kept may be gone.
                self.files.retain(|_, file| file.strong_count() > 0);
            }
            self.files.insert(file.id(), Arc::downgrade(file));
        }
        self.by_address.insert(region.reach.start, region);
    }

    /// Checks that every region in a range is in it as a whole.
    pub fn check_whole(&self, range: &Range<u64>) -> Result<(), Misfit> {
        let part = |region: &Region| Misfit::Part(region.reach.start..region.reach.end());
        let before = self.by_address.range(..range.start).next_back();
        if let Some((_, region)) = before.filter(|(_, region)| region.reach.end() > range.start) {
            return Err(part(region));
        }
        match self.by_address.range(range.clone()).next_back() {
            None => Err(Misfit::Empty),
            Some((_, last)) if last.reach.end() > range.end => Err(part(last)),
            Some(_) => Ok(()),
        }
    }

    /// Removes the regions that begin in a range, and the files that no region is
    /// in any more.
    pub fn remove(&mut self, range: &Range<u64>) {
        let gone = self.by_address.extract_if(range.clone(), |_, _| true);
        for (_, region) in gone {
            let Backing::File { file, .. } = &region.backing else {
                continue;
            };
            let id = file.id();
            drop(region);
            // An older mapping of the file may have gone, and the newest be there still.
            if self
                .files
                .get(&id)
                .is_some_and(|file| file.strong_count() == 0)
            {
                self.files.remove(&id);
            }
        }
    }

    /// Returns the newest mapping of a file.
    pub fn mapped(&self, id: FileId) -> Option<Arc<MappedFile>> {
        self.files.get(&id).and_then(Weak::upgrade)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Returns all of them, in address order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Region> {
        self.by_address.values()
    }
}
