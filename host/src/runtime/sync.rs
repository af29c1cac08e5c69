//! What [`handshake`](super::handshake) is made of; a model of it brings other parts.

use std::sync::atomic::compiler_fence;
pub use std::sync::atomic::{AtomicBool, Ordering};

/// Is the side of an asymmetric barrier that costs nothing: the other side has every
/// thread of the process pass a real one (`membarrier`).
#[inline]
pub fn light_barrier() {
    compiler_fence(Ordering::SeqCst);
}
