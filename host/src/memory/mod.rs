//! Guest memory: the regions that the VMM shared, and access to them.
//!
//! A region that comes with a file descriptor is mapped here; one that comes
//! without is remembered, so that an access to it fails with a reason. All
//! access is by guest-physical address and checked against the regions; guest
//! memory changes under our hands, so it is only ever copied or handed to the
//! kernel by [`Calls`].

mod iovec;
mod ring;
mod span;
#[cfg(test)]
pub(crate) mod tests;

pub use iovec::{Calls, IoVecError, Outcome, Writes};
pub use span::Span;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::{FileOffset, Le64, MmapRegion, VolatileMemory, VolatileSlice};

/// Size of a guest page, the granularity of regions and windows.
pub const PAGE_SIZE: u64 = 4096;

/// A run of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address of the first byte; any alignment.
    pub address: u64,
    /// Length in bytes, at least 1.
    pub length: u32,
}

/// An access that is not (entirely) to guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory {address:#x}+{length:#x} is not mapped for {access}")]
pub struct Fault {
    /// First address of the access.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What was attempted.
    pub access: Access,
}

/// Direction of an access to guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// From guest memory.
    Read,
    /// To guest memory.
    Write,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Read => "reading",
            Access::Write => "writing",
        })
    }
}

/// Why a region was refused.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Address, size or file offset is not a multiple of the page size, or
    /// the size is zero.
    #[error("guest region {0:#x}+{1:#x} is empty or not aligned to 4 KiB pages")]
    Unaligned(u64, u64),
    /// The range ends beyond the 64-bit address space.
    #[error("guest region {0:#x}+{1:#x} wraps the address space")]
    Wraps(u64, u64),
    /// Part of the range is mapped already.
    #[error("guest region {0:#x}+{1:#x} overlaps the region at {2:#x}; unmap that one first")]
    Overlaps(u64, u64, u64),
    /// The file is shorter than the region.
    #[error("the file behind guest region {address:#x} has {have:#x} bytes, {need:#x} are needed")]
    FileTooShort {
        /// Guest address of the region.
        address: u64,
        /// Size of the file.
        have: u64,
        /// End of the region in the file.
        need: u64,
    },
    /// More regions than [`GuestMemory::MAX_REGIONS`].
    #[error("more than {} guest regions", GuestMemory::MAX_REGIONS)]
    TooMany,
    /// The kernel refused the mapping.
    #[error("mapping guest region {0:#x}+{1:#x}: {2}")]
    Mmap(u64, u64, String),
    /// The component's windows could not be changed: the memory may still be in
    /// reach.
    #[error("guest memory could not be taken away from the device: {0}")]
    InReach(String),
    /// No region has exactly this range.
    #[error("no guest region is mapped at {0:#x}+{1:#x}")]
    NotMapped(u64, u64),
}

/// What backs a region.
#[derive(Clone, Debug)]
enum Backing {
    Shared {
        map: Arc<MmapRegion>,
        file: Arc<File>,
        offset: u64,
    },
    /// The VMM gave no file descriptor: known, but out of reach.
    None,
}

/// A region of guest memory.
#[derive(Clone, Debug)]
struct Region {
    start: u64,
    /// One past the last byte.
    end: u64,
    writable: bool,
    backing: Backing,
}

/// Where in a file a guest page lies, for laying it into a window.
#[derive(Clone, Debug)]
pub struct PageSource {
    /// The file that backs the page.
    pub file: Arc<File>,
    /// Offset of the page in the file.
    pub offset: u64,
}

/// The guest's memory, as far as the VMM shared it. A clone is the same memory,
/// and keeps it mapped.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    /// Sorted by address, never overlapping.
    regions: Vec<Region>,
}

impl GuestMemory {
    /// The most regions that are accepted; a VMM uses a few dozen.
    pub const MAX_REGIONS: usize = 1024;

    /// No memory at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps a region that a file descriptor backs.
    ///
    /// # Errors
    ///
    /// Nothing changes if the range is unaligned, wraps, overlaps another
    /// region, is longer than the file, or can't be mapped.
    pub fn map(
        &mut self,
        address: u64,
        size: u64,
        file: File,
        offset: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let at = self.check_new(address, size)?;
        let misfit = MapError::Unaligned(address, size);
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(misfit);
        }
        let need = offset
            .checked_add(size)
            .ok_or(MapError::Wraps(address, size))?;
        let failed = |e: &dyn std::fmt::Display| MapError::Mmap(address, size, e.to_string());
        let have = file.metadata().map_err(|e| failed(&e))?.len();
        if have < need {
            return Err(MapError::FileTooShort {
                address,
                have,
                need,
            });
        }
        let length = usize::try_from(size).map_err(|e| failed(&e))?;
        let file = Arc::new(file);
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let map = MmapRegion::build(
            Some(FileOffset::from_arc(file.clone(), offset)),
            length,
            protection,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(|e| failed(&e))?;
        let map = Arc::new(map);
        let backing = Backing::Shared { map, file, offset };
        self.regions.insert(
            at,
            Region {
                start: address,
                end: address + size,
                writable,
                backing,
            },
        );
        Ok(())
    }

    /// Remembers a region that came without a file descriptor.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    pub fn map_unreachable(&mut self, address: u64, size: u64) -> Result<(), MapError> {
        let at = self.check_new(address, size)?;
        let region = Region {
            start: address,
            end: address + size,
            writable: false,
            backing: Backing::None,
        };
        self.regions.insert(at, region);
        Ok(())
    }

    /// Forgets every region that lies inside the range.
    ///
    /// # Errors
    ///
    /// Nothing changes if a region lies inside the range only in part, or none does.
    pub fn unmap(&mut self, address: u64, size: u64) -> Result<Vec<Range<u64>>, MapError> {
        let end = address
            .checked_add(size)
            .ok_or(MapError::Wraps(address, size))?;
        let touched = |r: &Region| r.start < end && address < r.end;
        let whole = |r: &Region| address <= r.start && r.end <= end;
        let mut inside = self.regions.iter().filter(|r| touched(r)).peekable();
        if inside.peek().is_none() || !inside.all(whole) {
            return Err(MapError::NotMapped(address, size));
        }
        let gone = self.regions.extract_if(.., |r| whole(r));
        Ok(gone.map(|r| r.start..r.end).collect())
    }

    /// Forgets all regions, and says where they were.
    pub fn clear(&mut self) -> Vec<Range<u64>> {
        let gone = self.regions.drain(..);
        gone.map(|r| r.start..r.end).collect()
    }

    /// Copies from guest memory.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if part of the range can't be read; `data` is undefined then.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Fault> {
        if let Some(slice) = self.slice(address, data.len() as u64, Access::Read) {
            slice.copy_to(data);
            return Ok(());
        }
        let mut rest = data;
        self.walk(address, rest.len() as u64, Access::Read, |slice| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(slice.len());
            slice.copy_to(now);
            rest = later;
        })
    }

    /// The 8 bytes at an address as a little-endian number, in one load. None
    /// if they do not all lie in one region that can be read.
    #[inline]
    pub fn load(&self, address: u64) -> Option<u64> {
        let region = &self.regions[self.find(address)?];
        let Backing::Shared { map, .. } = &region.backing else {
            return None;
        };
        let bytes = map.get_ref::<Le64>((address - region.start) as usize);
        bytes.ok().map(|bytes| bytes.load().into())
    }

    /// Copies to guest memory; all or nothing.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if part of the range can't be written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Fault> {
        if let Some(slice) = self.slice(address, data.len() as u64, Access::Write) {
            slice.copy_from(data);
            return Ok(());
        }
        self.check(address, data.len() as u64, Access::Write)?;
        let mut rest = data;
        self.walk(address, data.len() as u64, Access::Write, |slice| {
            let (now, later) = rest.split_at(slice.len());
            slice.copy_from(now);
            rest = later;
        })
    }

    /// Copies from guest memory to guest memory; all or nothing. The ranges
    /// may overlap; what arrives is undefined then.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if part of a range can't be accessed.
    pub fn copy(&self, from: u64, to: u64, length: u64) -> Result<(), Fault> {
        let source = self.slice(from, length, Access::Read);
        if let (Some(source), Some(target)) = (source, self.slice(to, length, Access::Write)) {
            source.copy_to_volatile_slice(target);
            return Ok(());
        }
        self.check(from, length, Access::Read)?;
        self.check(to, length, Access::Write)?;
        let mut at = to;
        let mut fault = Ok(());
        self.walk(from, length, Access::Read, |source| {
            let mut done = 0;
            let piece = self.walk(at, source.len() as u64, Access::Write, |target| {
                // In bounds: the inner walk covers exactly `source`.
                if let Ok(part) = source.subslice(done, target.len()) {
                    part.copy_to_volatile_slice(target);
                }
                done += target.len();
            });
            fault = fault.and(piece);
            at += source.len() as u64;
        })?;
        fault
    }

    /// Whether the whole range can be accessed.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that names the range if not.
    #[inline]
    pub fn check(&self, address: u64, length: u64, access: Access) -> Result<(), Fault> {
        if self.slice(address, length, access).is_some() {
            return Ok(());
        }
        self.walk(address, length, access, |_| {})
    }

    /// Where the guest page at `address` lies, if the VMM shared it for writing.
    pub fn page(&self, address: u64) -> Option<PageSource> {
        if !address.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let region = &self.regions[self.find(address)?];
        match &region.backing {
            Backing::Shared { file, offset, .. } if region.writable => Some(PageSource {
                file: file.clone(),
                offset: offset + (address - region.start),
            }),
            _ => None,
        }
    }

    /// The regions in address order: range, and whether it is in reach.
    pub fn regions(&self) -> impl Iterator<Item = (Range<u64>, bool)> {
        self.regions
            .iter()
            .map(|r| (r.start..r.end, matches!(r.backing, Backing::Shared { .. })))
    }

    fn check_new(&self, address: u64, size: u64) -> Result<usize, MapError> {
        if size == 0 || !address.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned(address, size));
        }
        let end = address
            .checked_add(size)
            .ok_or(MapError::Wraps(address, size))?;
        if let Some(other) = self
            .regions
            .iter()
            .find(|r| r.start < end && address < r.end)
        {
            return Err(MapError::Overlaps(address, size, other.start));
        }
        if self.regions.len() >= Self::MAX_REGIONS {
            return Err(MapError::TooMany);
        }
        Ok(self.regions.partition_point(|r| r.start < address))
    }

    fn find(&self, address: u64) -> Option<usize> {
        let after = self.regions.partition_point(|r| r.start <= address);
        let index = after.checked_sub(1)?;
        (address < self.regions[index].end).then_some(index)
    }

    /// The range, if all of it lies in one region, as nearly every range does.
    #[inline]
    fn slice(&self, address: u64, length: u64, access: Access) -> Option<VolatileSlice<'_, ()>> {
        let region = &self.regions[self.find(address)?];
        let Backing::Shared { map, .. } = &region.backing else {
            return None;
        };
        let fits = length <= region.end - address;
        if !fits || (access == Access::Write && !region.writable) {
            return None;
        }
        let offset = (address - region.start) as usize;
        map.get_slice(offset, length as usize).ok()
    }

    /// Calls `visit` with the pieces of a range, in order.
    fn walk<'a>(
        &'a self,
        address: u64,
        length: u64,
        access: Access,
        mut visit: impl FnMut(VolatileSlice<'a, ()>),
    ) -> Result<(), Fault> {
        let fault = Fault {
            address,
            length,
            access,
        };
        let end = address.checked_add(length).ok_or(fault)?;
        let mut at = address;
        while at < end {
            let region = &self.regions[self.find(at).ok_or(fault)?];
            let Backing::Shared { map, .. } = &region.backing else {
                return Err(fault);
            };
            if access == Access::Write && !region.writable {
                return Err(fault);
            }
            let piece = region.end.min(end) - at;
            let slice = map
                .get_slice((at - region.start) as usize, piece as usize)
                .map_err(|_| fault)?;
            visit(slice);
            at += piece;
        }
        Ok(())
    }
}
