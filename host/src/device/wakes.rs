//! Hands a device over between its owner and the threads that are woken for it.
//!
//! Nothing here knows what is owned: `guest-tests/models` runs this very file under a
//! model checker, which tries every order of its steps.

use super::sync::{AtomicBool, Ordering, after_unlock, fence};

/// How often an owner checks for new wakes before it leaves them to the device's thread.
const ROUNDS: usize = 2;

/// Wakes of the device's thread that nobody has handled yet.
#[derive(Debug)]
pub struct PendingWakes {
    any: AtomicBool,
    queues: Box<[AtomicBool]>,
}

impl PendingWakes {
    /// Returns none, for a device with this many queues.
    pub fn new(queues: usize) -> Self {
        Self {
            any: AtomicBool::new(false),
            queues: (0..queues).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Notes that packets may wait at a queue.
    pub fn add(&self, queue: usize) {
        if let Some(flag) = self.queues.get(queue) {
            flag.store(true, Ordering::Release);
        }
    }

    /// Requests a check, including of the queues that were added. Must be followed by an attempt to
    /// become the owner.
    pub fn announce(&self) {
        self.any.store(true, Ordering::Release);
        // Whoever holds the lock looks after giving it up, and we try for it after
        // this.
        fence(Ordering::SeqCst);
    }

    /// Returns whether a check is requested; to be called right after the lock was released.
    #[inline]
    pub fn wait(&self) -> bool {
        after_unlock();
        self.any.load(Ordering::Acquire)
    }

    /// Returns whether a check is requested, without ordering other accesses.
    #[cfg(test)]
    pub fn is_announced(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Takes the wakes, queue by queue. Only the owner calls this.
    #[inline]
    pub fn take(&self, mut wake_queue: impl FnMut(usize)) {
        if !self.any.load(Ordering::Relaxed) || !self.any.swap(false, Ordering::AcqRel) {
            return;
        }
        for (queue, flag) in self.queues.iter().enumerate() {
            if flag.swap(false, Ordering::AcqRel) {
                wake_queue(queue);
            }
        }
    }

    /// Runs the device, and gives it up by dropping `owned`. `run` takes the wakes and returns
    /// whether more work is left than this owner should do. Wakes that come too late are handled
    /// here, by another thread that owns it by then, or by the device's own thread, which `kick`
    /// wakes.
    #[inline]
    pub fn settle<G>(
        &self,
        mut owned: G,
        mut run: impl FnMut(&mut G) -> bool,
        try_again: impl Fn() -> Option<G>,
        kick: impl FnOnce(),
    ) {
        let mut rounds = ROUNDS;
        loop {
            let more = run(&mut owned);
            drop(owned);
            if !more && !self.wait() {
                return;
            }
            rounds -= 1;
            if more || rounds == 0 {
                return kick();
            }
            match try_again() {
                Some(again) => owned = again,
                // The holder of the lock checks.
                None => return,
            }
        }
    }

    /// Gives the device up without running it; wakes and remaining work are for the device's own
    /// thread.
    #[inline]
    pub fn leave<G>(&self, owned: G, more: bool, kick: impl FnOnce()) {
        drop(owned);
        if more || self.wait() {
            kick();
        }
    }
}
