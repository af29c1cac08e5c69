//! The primitives of [`handshake`](super::handshake); its model replaces them.

use std::sync::atomic::compiler_fence;
pub use std::sync::atomic::{AtomicBool, Ordering};

/// Executes the free side of an asymmetric barrier: the other side makes every thread of the
/// process execute a real one (`membarrier`).
#[inline]
pub fn light_barrier() {
    compiler_fence(Ordering::SeqCst);
}
