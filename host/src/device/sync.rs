//! The primitives of [`wakes`](super::wakes); its model replaces them.

#[cfg(target_arch = "x86_64")]
use std::sync::atomic::compiler_fence;
pub use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Orders giving up a lock before a later load. The lock is given up by an atomic read
/// and write, which x86 never lets a later load overtake.
#[inline]
pub fn after_unlock() {
    #[cfg(target_arch = "x86_64")]
    compiler_fence(Ordering::SeqCst);
    #[cfg(not(target_arch = "x86_64"))]
    fence(Ordering::SeqCst);
}
