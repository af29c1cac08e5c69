//! The linear memory of a component, and the windows of guest pages in it.
//!
//! wasmtime asks for each linear memory here ([`MemoryCreator`]), so that the
//! host knows where it lies and can lay pages of guest memory over it. The
//! whole 4 GiB that a 32-bit component can address, and a guard behind it, are
//! reserved up front; the memory never moves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::memory::{GuestMemory, NoWindow, PAGE_SIZE, PageSource};

/// The most windows of a device.
const MAX_WINDOWS: usize = 2048;
/// The most mappings that the windows of a device are made of; a run of pages
/// that lie behind one another in guest memory is one mapping. The kernel
/// allows 65530 for the whole process by default.
const MAX_MAPPINGS: usize = 8192;

/// Bytes that are given back in one system call.
const DISCARDED_AT_ONCE: usize = 1 << 20;

const PAGE: usize = PAGE_SIZE as usize;

/// Why a window was refused.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Not inside linear memory, not aligned, overlapping, or not over guest
    /// memory that is shared by descriptor.
    #[error("the range or a page is not one that a window can have")]
    Invalid,
    /// Guest memory that no window can lie over.
    #[error("a page is part of a larger one, or of no file")]
    Unsupported,
    /// Too many windows or mappings.
    #[error("too many windows")]
    Exhausted,
    /// The kernel refused.
    #[error("laying a window: {0}")]
    Mmap(#[from] io::Error),
}

/// A window: the guest pages that lie over a range of linear memory.
#[derive(Debug)]
struct Window {
    /// Guest address of each page, in order.
    pages: Vec<u64>,
    mappings: usize,
}

impl From<NoWindow> for WindowError {
    fn from(why: NoWindow) -> Self {
        match why {
            NoWindow::NotMemory => Self::Invalid,
            NoWindow::Unsupported => Self::Unsupported,
        }
    }
}

impl Window {
    fn range(&self, offset: usize) -> Range<usize> {
        offset..offset + self.pages.len() * PAGE
    }
}

/// What lies in a linear memory.
#[derive(Debug, Default)]
struct Contents {
    /// Bytes that the component may use, from the beginning.
    size: usize,
    /// By offset.
    windows: BTreeMap<usize, Window>,
    mappings: usize,
}

/// A reserved range of addresses that holds one linear memory.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<c_void>,
    /// Bytes reserved, with the guard.
    length: usize,
    /// Bytes that the memory may grow to.
    capacity: usize,
    contents: Mutex<Contents>,
}

// SAFETY: the range belongs to this value alone until it is dropped; what is
// mapped in it only changes under the lock.
unsafe impl Send for Reservation {}
// SAFETY: as for `Send`.
unsafe impl Sync for Reservation {}

impl Reservation {
    fn new(capacity: usize, guard: usize, size: usize) -> io::Result<Arc<Self>> {
        let length = capacity
            .checked_add(guard)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches
        // nothing that exists.
        let base = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::empty(), flags)?
        };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        let contents = Mutex::default();
        let reservation = Self {
            base,
            length,
            capacity,
            contents,
        };
        reservation.grow(size)?;
        Ok(Arc::new(reservation))
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, size: usize) -> io::Result<()> {
        let mut contents = self.lock();
        if size > self.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if size > contents.size {
            // SAFETY: the range lies inside the reservation and holds
            // untouched anonymous memory, which only becomes accessible.
            unsafe {
                let rights = MprotectFlags::READ | MprotectFlags::WRITE;
                mprotect(self.at(contents.size), size - contents.size, rights)?;
            }
            contents.size = size;
        }
        Ok(())
    }

    /// Lays guest pages over the range that begins at `offset`.
    ///
    /// # Errors
    ///
    /// [`WindowError`]; linear memory is as it was before.
    pub fn map(&self, offset: u32, pages: &[u64], memory: &GuestMemory) -> Result<(), WindowError> {
        let mut contents = self.lock();
        let offset = offset as usize;
        let end = offset
            .checked_add(pages.len() * PAGE)
            .ok_or(WindowError::Invalid)?;
        if pages.is_empty() || !offset.is_multiple_of(PAGE) || end > contents.size {
            return Err(WindowError::Invalid);
        }
        // Windows do not overlap, so only the last that begins before the end
        // of this one could.
        let before = contents.windows.range(..end).next_back();
        if before.is_some_and(|(at, window)| offset < window.range(*at).end) {
            return Err(WindowError::Invalid);
        }
        let runs = runs(pages, memory)?;
        if contents.windows.len() >= MAX_WINDOWS || contents.mappings + runs.len() > MAX_MAPPINGS {
            return Err(WindowError::Exhausted);
        }
        let mut at = offset;
        for run in &runs {
            if let Err(error) = self.lay(at, run) {
                self.clear(offset..end, ProtFlags::READ | ProtFlags::WRITE)?;
                return Err(error.into());
            }
            at += run.length;
        }
        contents.mappings += runs.len();
        contents.windows.insert(
            offset,
            Window {
                pages: pages.to_vec(),
                mappings: runs.len(),
            },
        );
        Ok(())
    }

    /// Takes a window away; its range is anonymous, zeroed memory again.
    pub fn unmap(&self, offset: u32) {
        let mut contents = self.lock();
        let offset = offset as usize;
        let Some(window) = contents.windows.remove(&offset) else {
            return;
        };
        contents.mappings -= window.mappings;
        if let Err(error) = self.clear(window.range(offset), ProtFlags::READ | ProtFlags::WRITE) {
            tracing::error!(%error, "a window could not be taken away; its device will trap");
        }
    }

    /// Makes every page of a guest range inaccessible where a window shows
    /// it. Returns how many there were.
    pub fn revoke(&self, gone: &Range<u64>) -> usize {
        let contents = self.lock();
        let mut revoked = 0;
        for (offset, window) in &contents.windows {
            for (index, page) in window.pages.iter().enumerate() {
                if !gone.contains(page) {
                    continue;
                }
                let at = offset + index * PAGE;
                revoked += 1;
                if let Err(error) = self.clear(at..at + PAGE, ProtFlags::empty()) {
                    tracing::error!(%error, "a page could not be taken out of a window");
                }
            }
        }
        revoked
    }

    /// Gives back what the memory holds, a little at a time: unmapped at once,
    /// it would keep everybody waiting who maps something meanwhile. For a
    /// memory that nobody uses any more; what it held is lost.
    pub fn discard(&self) {
        let size = self.size();
        for offset in (0..size).step_by(DISCARDED_AT_ONCE) {
            let length = DISCARDED_AT_ONCE.min(size - offset);
            // SAFETY: the range lies inside the reservation; pages that are
            // read again would be zero, or those of the guest.
            let discarded = unsafe { madvise(self.at(offset), length, Advice::LinuxDontNeed) };
            if discarded.is_err() {
                return;
            }
        }
    }

    /// Number of windows and of the mappings they are made of.
    pub fn usage(&self) -> (usize, usize) {
        let contents = self.lock();
        (contents.windows.len(), contents.mappings)
    }

    /// Bytes that the component may use.
    pub fn size(&self) -> usize {
        self.lock().size
    }

    fn at(&self, offset: usize) -> *mut c_void {
        debug_assert!(offset <= self.length);
        self.base.as_ptr().wrapping_byte_add(offset)
    }

    fn lay(&self, offset: usize, run: &Run) -> io::Result<()> {
        // SAFETY: the range lies inside the accessible part of the reservation
        // (`map` checked it), which this value owns; wasmtime only ever
        // accesses it as plain bytes that may change at any time.
        unsafe {
            mmap(
                self.at(offset),
                run.length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                run.source.file.as_fd(),
                run.source.offset,
            )?;
        }
        Ok(())
    }

    /// Replaces what is mapped in a range by anonymous, zeroed memory.
    fn clear(&self, range: Range<usize>, rights: ProtFlags) -> io::Result<()> {
        // SAFETY: as in `lay`.
        unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            mmap_anonymous(self.at(range.start), range.len(), rights, flags)?;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and nobody refers to it any
        // more: wasmtime's memory and the windows hold this value alive.
        let unmapped = unsafe { munmap(self.base.as_ptr(), self.length) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "a linear memory could not be unmapped");
        }
    }
}

/// Pages that lie behind one another in a file.
#[derive(Debug)]
struct Run {
    source: PageSource,
    length: usize,
}

/// Joins pages that are contiguous in a file.
///
/// # Errors
///
/// A page can't be laid into a window.
fn runs(pages: &[u64], memory: &GuestMemory) -> Result<Vec<Run>, NoWindow> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        let source = memory.page(*page)?;
        match runs.last_mut() {
            Some(run)
                if Arc::ptr_eq(&run.source.file, &source.file)
                    && run.source.offset + run.length as u64 == source.offset =>
            {
                run.length += PAGE;
            }
            _ => runs.push(Run {
                source,
                length: PAGE,
            }),
        }
    }
    Ok(runs)
}

thread_local! {
    /// The memories made on this thread since [`captured`] last looked.
    static CREATED: RefCell<Vec<Arc<Reservation>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `instantiate` and returns, with its result, the linear memories that
/// were made meanwhile.
pub fn captured<T>(instantiate: impl FnOnce() -> T) -> (T, Vec<Arc<Reservation>>) {
    CREATED.take();
    let result = instantiate();
    (result, CREATED.take())
}

/// Makes linear memories for an engine.
#[derive(Debug)]
pub struct Creator;

// SAFETY: each memory is `reserved_size` bytes of inaccessible memory of its
// own, with the guard behind it, of which the first `minimum` are accessible
// and zero; it neither moves nor shrinks.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size: Option<usize>,
        guard_size: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if ty.is_64() || ty.is_shared() {
            return Err("only plain 32-bit memories are supported".into());
        }
        let capacity = reserved_size.unwrap_or(1 << 32).max(minimum);
        let reservation = Reservation::new(capacity, guard_size, minimum)
            .map_err(|error| format!("reserving {capacity:#x} bytes of addresses: {error}"))?;
        CREATED.with_borrow_mut(|created| created.push(reservation.clone()));
        let limit = maximum.unwrap_or(capacity).min(capacity);
        Ok(Box::new(Memory { reservation, limit }))
    }
}

/// A linear memory, as wasmtime sees it.
struct Memory {
    reservation: Arc<Reservation>,
    limit: usize,
}

// SAFETY: see `Creator`; `as_ptr` and the accessible bytes stay valid as long
// as this value holds the reservation alive.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.reservation.size()
    }

    fn byte_capacity(&self) -> usize {
        self.limit
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > self.limit {
            wasmtime::bail!("linear memory is limited to {:#x} bytes", self.limit);
        }
        Ok(self.reservation.grow(new_size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.reservation.base.as_ptr().cast()
    }
}
