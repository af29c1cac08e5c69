//! Memory that outlives the process: a file in memory, accessed as 64-bit cells.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};

use crate::memory::mapping::Mapping;

/// Marks that a packet was handed over; its id is in the lower half of the cell.
pub const HANDED: u64 = 1 << 32;
/// Bytes of a cell.
pub const CELL: usize = 8;

/// A file in memory, whose length nobody can change. Others may have it: what is read from it
/// is hostile input, and no Rust reference to it exists.
#[derive(Debug)]
pub struct Cells {
    mapping: Mapping,
    file: File,
    /// Called after each write.
    #[cfg(test)]
    pub watch: std::sync::OnceLock<tests::Watch>,
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
        Ok(Self {
            mapping,
            file,
            #[cfg(test)]
            watch: std::sync::OnceLock::default(),
        })
    }

    /// Returns the address of a cell.
    #[inline]
    fn cell(&self, offset: usize) -> *mut u64 {
        let inside = offset.is_multiple_of(CELL) && offset < self.mapping.length();
        assert!(inside, "cell {offset:#x} is none of the file's");
        // SAFETY: it lies inside the mapping.
        unsafe { self.mapping.base().as_ptr().add(offset).cast() }
    }

    /// Reads a cell.
    #[inline]
    pub fn load(&self, offset: usize) -> u64 {
        // SAFETY: the cell is aligned, as the mapping begins with a page, and is mapped as long
        // as `self` lives; the file can't become shorter. Others may write it at any time: no
        // reference to it exists, and an aligned access of 64 bits is a single one.
        let value = unsafe { self.cell(offset).read_volatile() };
        fence(Ordering::Acquire);
        value
    }

    /// Writes a cell, ordered after all earlier writes.
    #[inline]
    pub fn store(&self, offset: usize, value: u64) {
        fence(Ordering::Release);
        // SAFETY: as in `load`.
        unsafe { self.cell(offset).write_volatile(value) };
        #[cfg(test)]
        if let Some(watch) = self.watch.get() {
            watch.0(self);
        }
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

#[cfg(test)]
pub mod tests {
    use super::Cells;

    /// Looks at a file after each write to it.
    pub struct Watch(pub Box<dyn Fn(&Cells) + Send + Sync>);

    impl std::fmt::Debug for Watch {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Watch")
        }
    }
}
