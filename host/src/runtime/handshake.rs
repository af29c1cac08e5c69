//! The synchronization between calls and the thread of deadlines.
//!
//! A call sets its flag and then reads `asleep`; the thread sets `asleep` and then reads the
//! flags, and one of them must see the other. The calls, which are many, leave the expensive
//! barrier in between to the thread. Nothing here depends on wasmtime: `guest-tests/models` runs
//! this very file under a model checker.

use super::sync::{AtomicBool, Ordering, light_barrier};

/// The flags of both sides.
#[derive(Debug)]
pub struct Handshake {
    /// Whether a call began since the thread checked last.
    entered: AtomicBool,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
}

impl Handshake {
    /// Returns the flags of a thread that is awake.
    pub fn new() -> Self {
        Self {
            entered: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        }
    }

    /// Records that a call begins, whose flag is `running`. `wake` wakes the thread.
    #[inline]
    pub fn enter(&self, running: &AtomicBool, wake: impl FnOnce()) {
        running.store(true, Ordering::Release);
        // It is rarely written, so that it stays in every processor's cache.
        if !self.entered.load(Ordering::Relaxed) {
            self.entered.store(true, Ordering::Release);
        }
        light_barrier();
        if self.asleep.load(Ordering::Relaxed) {
            self.entered.store(true, Ordering::SeqCst);
            wake();
        }
    }

    /// Returns whether a call began since the last call of this method. The thread calls it.
    pub fn take_entered(&self) -> bool {
        self.entered.swap(false, Ordering::SeqCst)
    }

    /// Returns whether the thread sleeps, or is about to.
    #[cfg(test)]
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Sleeps until a call begins. `barrier` orders everything that other threads did before against
    /// everything here after it, or returns false: then the thread does not sleep; `park` may return
    /// early.
    pub fn sleep_until_entered(
        &self,
        barrier: impl FnOnce() -> bool,
        is_running: impl FnOnce() -> bool,
        mut park: impl FnMut(),
    ) {
        self.asleep.store(true, Ordering::SeqCst);
        // From here on every call sees that, or is seen.
        if barrier() && !is_running() {
            while !self.entered.load(Ordering::SeqCst) {
                park();
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}
