//! Lost pages: turns SIGBUS into the loss of a device, not of the process.
//!
//! Whoever shares a file can shrink it while it is mapped here, and an access to a page that no
//! longer exists raises SIGBUS, be it a copy by the host or compiled code of a component. Address
//! ranges where that may happen are registered here. The handler maps private, zeroed memory
//! at the fault, sets a flag, and lets the access continue; the owner of the range checks the
//! flag. A fault anywhere else is passed to the previous handler.
//!
//! Nothing in the handler takes a lock or allocates. It finds the range in a table of fixed size,
//! whose slots are changed under a version number: a slot that changes meanwhile is not the
//! wanted one, because the range of an access stays registered during the access.

#[cfg(test)]
mod tests;

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release, fence,
};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// The most ranges at once; the kernel allows a process 65,530 mappings by
/// default. Slots that were never used take no memory.
const SLOTS: usize = 1 << 16;

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
/// How many slots were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Free slots among them.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// The previous action for SIGBUS; set once, before the handler is installed.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A registered range of addresses.
struct Slot {
    /// Odd while the slot changes.
    version: AtomicU32,
    start: AtomicUsize,
    /// One past the last byte; 0 if the slot is free.
    end: AtomicUsize,
    page_size: AtomicUsize,
    /// Whether everything from the fault to the end is replaced, not only a page.
    to_end: AtomicBool,
    /// From [`Arc::into_raw`].
    flag: AtomicPtr<AtomicBool>,
    hit: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page_size: AtomicUsize::new(0),
            to_end: AtomicBool::new(false),
            flag: AtomicPtr::new(null_mut()),
            hit: AtomicBool::new(false),
        }
    }

    /// Changes the slot, which only the caller and the handler access.
    fn change(&self, change: impl FnOnce(&Self)) {
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        change(self);
        self.version.store(version.wrapping_add(2), Release);
    }

    /// Returns the start and the length of the range to replace if `address` faulted. None if it is
    /// not in this range.
    fn replaced(&self, address: usize) -> Option<(usize, usize)> {
        let version = self.version.load(Acquire);
        let (start, end) = (self.start.load(Relaxed), self.end.load(Relaxed));
        let page_size = self.page_size.load(Relaxed);
        let to_end = self.to_end.load(Relaxed);
        fence(Acquire);
        if !version.is_multiple_of(2) || version != self.version.load(Relaxed) {
            return None;
        }
        if address < start || end <= address || page_size == 0 {
            return None;
        }
        let page = address - (address - start) % page_size;
        let length = if to_end { end - page } else { page_size };
        Some((page, length))
    }
}

/// A range of addresses in which pages may be lost. Dropped before the
/// range is unmapped.
#[derive(Debug)]
pub(crate) struct FaultRange {
    slot: usize,
}

impl FaultRange {
    /// Registers a range in which a lost page is replaced by itself. `flag` is set
    /// when one was. The range is whole pages of `page_size`. None if too many ranges
    /// are registered.
    ///
    /// Whoever accesses the range must keep the registration, and what is mapped
    /// there, until the access is over.
    pub fn register(
        start: NonNull<u8>,
        length: usize,
        page_size: usize,
        flag: Arc<AtomicBool>,
    ) -> Option<Self> {
        Self::add(start, length, page_size, flag, false)
    }

    /// Registers a range in which everything after a lost page is given up with it, so that a shrunk
    /// file costs only one more mapping, however it is accessed.
    pub fn register_to_end(
        start: NonNull<u8>,
        length: usize,
        page_size: usize,
        flag: Arc<AtomicBool>,
    ) -> Option<Self> {
        Self::add(start, length, page_size, flag, true)
    }

    fn add(
        start: NonNull<u8>,
        length: usize,
        page_size: usize,
        flag: Arc<AtomicBool>,
        to_end: bool,
    ) -> Option<Self> {
        let mut free = FREE.lock();
        let slot = match free.pop() {
            Some(slot) => slot,
            None => {
                let slot = USED.load(Relaxed);
                if slot == SLOTS {
                    return None;
                }
                USED.store(slot + 1, Release);
                slot
            }
        };
        drop(free);
        let start = start.addr().get();
        TABLE[slot].change(|entry| {
            entry.start.store(start, Relaxed);
            entry.end.store(start + length, Relaxed);
            entry.page_size.store(page_size, Relaxed);
            entry.to_end.store(to_end, Relaxed);
            entry.flag.store(Arc::into_raw(flag).cast_mut(), Relaxed);
            entry.hit.store(false, Relaxed);
        });
        Some(Self { slot })
    }

    /// Returns whether a page was lost.
    pub fn was_hit(&self) -> bool {
        TABLE[self.slot].hit.load(Relaxed)
    }
}

impl Drop for FaultRange {
    fn drop(&mut self) {
        let mut flag = null_mut();
        TABLE[self.slot].change(|entry| {
            entry.start.store(0, Relaxed);
            entry.end.store(0, Relaxed);
            flag = entry.flag.swap(null_mut(), Relaxed);
        });
        // SAFETY: it is from `Arc::into_raw` in `add`, and taken back once. The
        // handler uses it only for an access to this range, and there is none any more.
        drop(unsafe { Arc::from_raw(flag) });
        FREE.lock().push(self.slot);
    }
}

/// Makes lost pages end the device that uses them, and not the process. It applies to the whole
/// process: other causes of SIGBUS go to the current handler. A second call has no effect.
///
/// # Errors
///
/// If a system call fails.
pub fn install_fault_handler() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _alone = INSTALLING.lock();
    if BEFORE.get().is_some() {
        return Ok(());
    }
    let before = action(None)?;
    // No one else sets it: only this function does, and one call of it at a time.
    let _ = BEFORE.set(before);
    // SAFETY: all zeros is a value of this structure: no flags, an empty mask.
    let mut own: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    own.sa_sigaction = handler as usize;
    own.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action(Some(&own)).map(|_| ())
}

/// Sets and returns the action for SIGBUS.
fn action(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let mut old = MaybeUninit::zeroed();
    // SAFETY: `new` is null or a structure that outlives the call, whose handler is
    // safe to be called at any time; `old` has room for one.
    let result = unsafe { libc::sigaction(libc::SIGBUS, new, old.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros is a value of it, and the kernel has written another.
    Ok(unsafe { old.assume_init() })
}

/// Handles a signal. All it calls is async-signal-safe.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a structure that is valid during the call, and fills in
    // the address for these codes; `errno` is this thread's own.
    let (code, errno) = unsafe { ((*info).si_code, libc::__errno_location()) };
    if matches!(code, libc::BUS_ADRERR | libc::BUS_MCEERR_AR) {
        // SAFETY: as above.
        let (address, before) = unsafe { ((*info).si_addr().addr(), *errno) };
        let replaced = replace(address);
        // SAFETY: as above. Whatever was interrupted must not see another value.
        unsafe { *errno = before };
        if replaced {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Replaces the lost pages, if they are in a registered range.
fn replace(address: usize) -> bool {
    let slots = &TABLE[..USED.load(Acquire)];
    for slot in slots {
        let Some((start, length)) = slot.replaced(address) else {
            continue;
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let start = std::ptr::without_provenance_mut(start);
        // SAFETY: the pages lie in a range that is registered, and stays so during this
        // handler, since the access that faulted is made on this thread by somebody who
        // keeps it. Whoever registered it takes it as bytes that may change at any time.
        let mapped = unsafe { libc::mmap(start, length, rights, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        slot.hit.store(true, Relaxed);
        // SAFETY: it is from `Arc::into_raw`, and not taken back while the range is
        // registered.
        if let Some(flag) = unsafe { slot.flag.load(Relaxed).as_ref() } {
            flag.store(true, Release);
        }
        return true;
    }
    false
}

/// Does what would happen without this handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as in `handle`.
    let code = unsafe { (*info).si_code };
    let faulted = matches!(
        code,
        libc::BUS_ADRALN | libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR
    );
    let Some(before) = BEFORE.get() else {
        return end(signal, faulted);
    };
    match before.sa_sigaction {
        libc::SIG_DFL => end(signal, faulted),
        // A fault can't be ignored: it would repeat at once, forever.
        libc::SIG_IGN if faulted => end(signal, faulted),
        libc::SIG_IGN => {}
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: a handler that was installed with this flag is such a function.
            let handler: Handler = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: a handler that was installed without that flag is such a function.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// Ends the process as SIGBUS does by default: a faulting access is repeated when the handler
/// returns, and a signal that was sent is sent again.
fn end(signal: c_int, faulted: bool) {
    // SAFETY: all zeros is a value of this structure: the default action.
    let default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the structure outlives the call. Both calls are async-signal-safe.
    unsafe {
        libc::sigaction(signal, &default, null_mut());
        if !faulted {
            libc::raise(signal);
        }
    }
}
