//! Memory that outlives the process: a file in memory, accessed as 64-bit cells.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};

use crate::memory::mapping::Mapping;

/// Marks that a packet was handed over; its id is in the lower half of the cell.
pub const HANDED: u64 = 1 << 32;
/// Bytes of a cell.
pub const CELL: usize = 8;

/// A file in memory, whose length nobody can change. Others may have it: what is read from it
/// is hostile input, and all accesses are atomic.
#[derive(Debug)]
pub struct Cells {
    mapping: Mapping,
    file: File,
}

impl Cells {
    /// Creates a file of `length` zero bytes. Only written pages occupy memory.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new(length: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("manatee-live", flags)?);
        ftruncate(&file, length as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(file, length)
    }

    /// Maps a file that another process created.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, and `InvalidData` if the file has another length, or one that could
    /// change.
    pub fn open(file: OwnedFd, length: usize) -> io::Result<Self> {
        let file = File::from(file);
        let sealed = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed || file.metadata()?.len() != length as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(file, length)
    }

    fn map(file: File, length: usize) -> io::Result<Self> {
        let mapping = Mapping::new(&file, length, true)?;
        Ok(Self { mapping, file })
    }

    /// Returns a cell, if it lies inside.
    #[inline]
    fn cell(&self, offset: usize) -> &AtomicU64 {
        let inside = offset.is_multiple_of(CELL) && offset < self.mapping.length();
        assert!(inside, "cell {offset:#x} is none of the file's");
        // SAFETY: it is aligned, as the mapping begins with a page, and lies inside the mapping,
        // which lives as long as `self`. The file can't become shorter. Others may write the
        // memory at any time, and so it is accessed by nothing but atomics.
        unsafe { AtomicU64::from_ptr(self.mapping.base().as_ptr().add(offset).cast()) }
    }

    /// Reads a cell.
    #[inline]
    pub fn load(&self, offset: usize) -> u64 {
        self.cell(offset).load(Ordering::Acquire)
    }

    /// Writes a cell, ordered after all earlier writes.
    #[inline]
    pub fn store(&self, offset: usize, value: u64) {
        self.cell(offset).store(value, Ordering::Release);
    }

    /// Writes bytes from a cell on. The rest of the last cell becomes zero.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        for (number, part) in bytes.chunks(CELL).enumerate() {
            let mut cell = [0; CELL];
            cell[..part.len()].copy_from_slice(part);
            self.store(offset + number * CELL, u64::from_le_bytes(cell));
        }
    }

    /// Reads bytes from a cell on.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let cells = (0..length.div_ceil(CELL)).map(|number| self.load(offset + number * CELL));
        let mut bytes: Vec<u8> = cells.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(length);
        bytes
    }
}

impl AsFd for Cells {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// One cell of a file.
#[derive(Clone, Debug)]
pub struct Cell {
    cells: Arc<Cells>,
    offset: usize,
}

impl Cell {
    /// Returns the cell at an offset.
    pub fn new(cells: &Arc<Cells>, offset: usize) -> Self {
        Self {
            cells: cells.clone(),
            offset,
        }
    }

    /// Writes it.
    #[inline]
    pub fn store(&self, value: u64) {
        self.cells.store(self.offset, value);
    }

    /// Writes the id of a packet, or that there is none.
    #[inline]
    pub fn store_packet(&self, id: Option<u32>) {
        self.store(id.map_or(0, |id| HANDED | u64::from(id)));
    }
}
