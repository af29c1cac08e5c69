//! Files that back guest memory.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat, fstatfs};

use manatee_common::closer::close_elsewhere;

use super::budget::Share;
use super::error::MapError;
use super::fault::FaultRange;
use super::mapping::Mapping;
use super::unit::PAGE_SIZE;

/// Identifies a file, and distinguishes one that may be written from the same
/// file opened for reading only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    writable: bool,
}

/// A descriptor of a file that guest memory can be in.
#[derive(Debug)]
pub struct GuestFile {
    file: File,
    id: FileId,
    length: u64,
    page_size: u64,
}

impl GuestFile {
    /// Checks that a descriptor is of a regular file; memfds and files of hugetlbfs are too. Any
    /// other one is closed on another thread. `address` and `size` are for the message.
    ///
    /// # Errors
    ///
    /// [`MapError::NoFile`], or [`MapError::Mmap`] with the kernel's error.
    pub fn new(file: File, address: u64, size: u64) -> Result<Self, MapError> {
        match Facts::of(&file) {
            Ok(Facts::Regular {
                id,
                length,
                page_size,
            }) => Ok(Self {
                file,
                id,
                length,
                page_size,
            }),
            Ok(Facts::Other(what)) => {
                close_elsewhere(file);
                Err(MapError::NoFile { address, what })
            }
            Err(error) => {
                close_elsewhere(file);
                Err(MapError::Mmap(address, size, error.to_string()))
            }
        }
    }

    /// Returns whether the VMM could shrink the file while the device uses it. A memfd that is
    /// sealed against that (`F_SEAL_SHRINK`) keeps its size.
    pub fn may_shrink(&self) -> bool {
        let seals = fcntl_get_seals(&self.file);
        !seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Returns the file's size in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns how many bytes of the file are in whole pages.
    pub(super) fn mappable(&self) -> u64 {
        self.length - self.length % self.page_size
    }
}

/// Returns the kind of a descriptor's file.
enum Facts {
    Regular {
        id: FileId,
        length: u64,
        page_size: u64,
    },
    /// The kind in words.
    Other(&'static str),
}

impl Facts {
    fn of(file: &File) -> io::Result<Self> {
        let stat = fstat(file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Ok(Self::Other(name(kind)));
        }
        let access = fcntl_getfl(file)? & OFlags::RWMODE;
        let system = fstatfs(file)?;
        let huge = system.f_type as u64 == libc::HUGETLBFS_MAGIC as u64;
        let page_size = if huge {
            system.f_bsize as u64
        } else {
            PAGE_SIZE
        };
        Ok(Self::Regular {
            id: FileId {
                device: stat.st_dev,
                inode: stat.st_ino,
                writable: access == OFlags::RDWR,
            },
            length: u64::try_from(stat.st_size).unwrap_or(0),
            page_size: page_size.max(PAGE_SIZE),
        })
    }
}

fn name(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        _ => "no file (an eventfd, a timer, or the like)",
    }
}

/// A file, mapped as a whole, with the only descriptor of it that is kept. When this is dropped,
/// the mapping goes, and with it the memory that the VMM has unmapped.
#[derive(Debug)]
pub(super) struct MappedFile {
    /// Before the mapping, since that is dropped after it.
    faults: FaultRange,
    mapping: Mapping,
    file: Arc<File>,
    id: FileId,
    page_size: u64,
    writable: bool,
    _shares: [Share; 2],
}

impl MappedFile {
    /// Maps a file; `lost` is set when pages of it are lost. The shares are kept as long as the
    /// mapping.
    ///
    /// # Errors
    ///
    /// The kernel's; or the mapping can't be watched, since too many are.
    pub fn new(file: GuestFile, lost: &Arc<AtomicBool>, shares: [Share; 2]) -> io::Result<Self> {
        let length = usize::try_from(file.mappable()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let GuestFile {
            file,
            id,
            page_size,
            ..
        } = file;
        let (mapping, writable) = match Mapping::new(&file, length, id.writable) {
            // A seal forbids to map it for writing, though it is open for that.
            Err(error) if id.writable && error.kind() == io::ErrorKind::PermissionDenied => {
                (Mapping::new(&file, length, false)?, false)
            }
            mapped => (mapped?, id.writable),
        };
        // Fits: a page is shorter than the mapping.
        let page = page_size as usize;
        let faults = FaultRange::register_to_end(mapping.base(), length, page, lost.clone());
        let faults = faults.ok_or_else(|| {
            io::Error::other("too many mappings of this process are watched for lost pages")
        })?;
        Ok(Self {
            faults,
            mapping,
            file: Arc::new(file),
            id,
            page_size,
            writable,
            _shares: shares,
        })
    }

    /// Returns the mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Returns the descriptor.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Returns which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Returns the size of the file's pages.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Returns whether it may be written to.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns whether the mapping is long enough and still shows the file's own pages.
    pub fn serves(&self, end: u64) -> bool {
        end <= self.mapping.length() as u64 && !self.is_lost()
    }

    /// Returns whether pages of it were lost.
    pub fn is_lost(&self) -> bool {
        self.faults.was_hit()
    }
}

/// Duplicates a borrowed descriptor.
///
/// # Errors
///
/// If a system call fails.
pub(super) fn duplicate(file: impl AsFd) -> io::Result<Arc<File>> {
    Ok(Arc::new(file.as_fd().try_clone_to_owned()?.into()))
}
