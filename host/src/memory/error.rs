//! Errors of accesses to guest memory, and of mapping regions.

use rustix::io::Errno;

use super::limits::{MAX_FILES, MAX_MAPPED_BYTES, MAX_REGIONS, MAX_REGIONS_OF_PROCESS};

/// An access that is not (entirely) to guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory {address:#x}+{length:#x} is not mapped for {access}")]
pub struct Fault {
    /// First address of the access.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its direction.
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

/// The outcome of a call: a number of bytes, or the kernel's error.
pub type Outcome = Result<usize, Errno>;

/// Why a region was refused, or could not be unmapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// The descriptor is of something without pages to share.
    #[error(
        "the descriptor that came with guest region {address:#x} is {what}; guest memory is a \
         regular file, a memfd or a file of hugetlbfs"
    )]
    NoFile {
        /// Guest address of the region.
        address: u64,
        /// The kind of the file.
        what: &'static str,
    },
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
    /// The region is writable, and the file is not.
    #[error(
        "guest region {0:#x}+{1:#x} is to be writable, but its file may only be read; share it \
         read-only, or open the file for writing"
    )]
    ReadOnlyFile(u64, u64),
    /// More regions than [`GuestMemory::MAX_REGIONS`](super::GuestMemory::MAX_REGIONS).
    #[error(
        "the device has {} guest regions already, the most it can have; unmap some first",
        MAX_REGIONS
    )]
    TooMany,
    /// More regions than there may be in a process.
    #[error(
        "all devices of this process have {MAX_REGIONS_OF_PROCESS} guest regions, the most they \
         can have together; serve fewer devices in a process"
    )]
    TooManyInProcess,
    /// More mappings of files than a device may have.
    #[error(
        "guest memory is spread over {MAX_FILES} files (or generations of growing files) already, \
         the most that a device can map; share it in fewer files"
    )]
    TooManyFiles,
    /// More bytes of files than there may be in a process.
    #[error(
        "mapping the file behind guest region {address:#x}, of {size:#x} bytes, would exceed the \
         {MAX_MAPPED_BYTES:#x} bytes of files that a process maps at most; share a smaller file"
    )]
    TooLarge {
        /// Guest address of the region.
        address: u64,
        /// Size of the file.
        size: u64,
    },
    /// The kernel refused the mapping.
    #[error("mapping guest region {0:#x}+{1:#x}: {2}")]
    Mmap(u64, u64, String),
    /// The component's windows could not be changed: they may still reach the memory.
    #[error("guest memory could not be taken away from the device: {0}; reset the device first")]
    InReach(String),
    /// There is no region in this range.
    #[error("no guest region is mapped at {0:#x}+{1:#x}")]
    NotMapped(u64, u64),
    /// A region is only partly in this range.
    #[error(
        "guest range {0:#x}+{1:#x} is only a part of the region {2:#x}+{3:#x}; unmap that one \
         as a whole"
    )]
    Cuts(u64, u64, u64, u64),
}
