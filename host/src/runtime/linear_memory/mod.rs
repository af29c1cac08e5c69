//! The linear memory of a component: a heap that only the component writes, and an arena for
//! windows of guest pages.
//!
//! wasmtime requests each linear memory here ([`MemoryCreator`]), so that the host knows its
//! address and can map pages of guest memory over a part of it. The whole 4 GiB that a 32-bit
//! component can address, and a guard after it, are reserved up front; the memory never moves.
//!
//! Nothing inside the accessible size is ever inaccessible, or read-only: a fault
//! there is turned into a trap only if it happens in compiled wasm, and
//! `memory.copy` and `memory.fill` are native code.

mod arena;
#[cfg(test)]
mod tests;

pub use arena::{RevokeError, View, WindowAccess, WindowError};

use std::cell::RefCell;
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::memory::{GuestMemory, PAGE_SIZE};
use arena::Arena;

/// Bytes that are freed in one system call.
const DISCARDED_AT_ONCE: usize = 1 << 20;

const PAGE: usize = PAGE_SIZE as usize;
/// The granularity of linear memory.
const WASM_PAGE: usize = 1 << 16;

/// The contents of a linear memory.
#[derive(Debug, Default)]
struct Contents {
    /// Bytes that the component may use, from the beginning.
    size: usize,
    arena: Option<Arena>,
}

/// A reserved range of addresses that holds one linear memory.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<c_void>,
    /// Bytes reserved, with the guard.
    length: usize,
    /// Bytes that the memory may grow to.
    capacity: usize,
    /// As in `contents`, to be read without the lock.
    size: AtomicUsize,
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
        let reservation = Self {
            base,
            length,
            capacity,
            size: AtomicUsize::new(0),
            contents: Mutex::default(),
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
            self.size.store(size, Ordering::Release);
        }
        Ok(())
    }

    /// Makes a range of the memory the arena, once, with these contents of its windows.
    ///
    /// # Errors
    ///
    /// [`WindowError::Invalid`] if it is not inside the memory, not aligned to
    /// 64 KiB, empty, or there is an arena already.
    pub fn reserve_arena(
        &self,
        offset: u32,
        length: u32,
        view: View,
    ) -> Result<Range<u32>, WindowError> {
        let mut contents = self.lock();
        let end = offset.checked_add(length).ok_or(WindowError::Invalid)?;
        let range = offset as usize..end as usize;
        let aligned = range.start.is_multiple_of(WASM_PAGE) && range.end.is_multiple_of(WASM_PAGE);
        if range.is_empty() || !aligned || range.end > contents.size || contents.arena.is_some() {
            return Err(WindowError::Invalid);
        }
        // The base is not null, and neither is an address behind it.
        let at = NonNull::new(self.at(range.start).cast()).ok_or(WindowError::Invalid)?;
        contents.arena = Some(Arena::new(at, range, view));
        Ok(offset..end)
    }

    /// Maps guest pages over the part of the arena that begins at `offset`.
    ///
    /// # Errors
    ///
    /// [`WindowError`]; but for [`WindowError::Broken`], linear memory is as it was
    /// before.
    pub fn map(
        &self,
        offset: u32,
        pages: &[u64],
        access: WindowAccess,
        memory: &GuestMemory,
    ) -> Result<(), WindowError> {
        let mut contents = self.lock();
        let arena = contents.arena.as_mut().ok_or(WindowError::Invalid)?;
        arena.map(self, offset as usize, pages, access, memory)
    }

    /// Unmaps a window; its range is anonymous, zeroed memory again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: guest pages may still be there.
    pub fn unmap(&self, offset: u32) -> io::Result<()> {
        match &mut self.lock().arena {
            Some(arena) => arena.unmap(self, offset as usize),
            None => Ok(()),
        }
    }

    /// Replaces every page of the guest ranges by zeroed memory where a window
    /// shows it. Returns the offsets of the windows that lost pages.
    ///
    /// # Errors
    ///
    /// [`RevokeError`]; the instance is unusable then.
    pub fn revoke(&self, gone: &[Range<u64>]) -> Result<Vec<u32>, RevokeError> {
        match &mut self.lock().arena {
            Some(arena) => arena.revoke(self, gone),
            None => Ok(Vec::new()),
        }
    }

    /// Maps windows that lost pages again, as far as their pages are back. Returns the offsets of
    /// those that are complete again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the instance is unusable then.
    pub fn restore(&self, memory: &GuestMemory) -> io::Result<Vec<u32>> {
        match &mut self.lock().arena {
            Some(arena) => arena.restore(self, memory),
            None => Ok(Vec::new()),
        }
    }

    /// Changes the contents of windows.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the instance is unusable then.
    pub fn show(&self, view: View, memory: &GuestMemory) -> io::Result<()> {
        match &mut self.lock().arena {
            Some(arena) => arena.show(self, view, memory),
            None => Ok(()),
        }
    }

    /// Frees the memory in small steps: unmapped at once, it would block every thread that maps
    /// something meanwhile. Only for a memory that is not used any more; its contents are lost.
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

    /// Returns whether a page of a window was lost with its file.
    pub fn lost(&self) -> Option<Arc<AtomicBool>> {
        self.lock().arena.as_ref().map(Arena::lost)
    }

    /// Returns the number of windows and of the mappings they are made of.
    pub fn usage(&self) -> (usize, usize) {
        self.lock().arena.as_ref().map_or((0, 0), Arena::usage)
    }

    /// Returns how many bytes the component may use.
    #[inline]
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// Returns where the memory begins.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr().cast()
    }

    fn at(&self, offset: usize) -> *mut c_void {
        debug_assert!(offset <= self.length);
        self.base.as_ptr().wrapping_byte_add(offset)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // It describes a part of what is unmapped here.
        self.lock().arena = None;
        // SAFETY: the range was mapped by `new`, and nobody refers to it any
        // more: wasmtime's memory and the windows hold this value alive.
        let unmapped = unsafe { munmap(self.base.as_ptr(), self.length) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "a linear memory could not be unmapped");
        }
    }
}

thread_local! {
    /// The memories that were created on this thread since [`captured`] last checked.
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
        self.reservation.base()
    }
}
