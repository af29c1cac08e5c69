//! The hand-over of a device between its owner and whoever was woken for it.
//!
//! Nothing here knows what is owned: `guest-tests/models` runs this very file under a
//! model checker, which tries every order of its steps.

use super::sync::{AtomicBool, Ordering, after_unlock, fence};

/// How often an owner looks at what came meanwhile, until it is for the device's
/// thread.
const ROUNDS: usize = 2;

/// What woke the device's thread and nobody has looked at yet.
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

    /// Says that somebody is to look, at the queues that were added too. To be followed
    /// by an attempt to become the owner.
    pub fn announce(&self) {
        self.any.store(true, Ordering::Release);
        // Whoever holds the lock looks after giving it up, and we try for it after
        // this.
        fence(Ordering::SeqCst);
    }

    /// Returns whether somebody is to look; to be asked right after the lock was given
    /// up.
    #[inline]
    pub fn wait(&self) -> bool {
        after_unlock();
        self.any.load(Ordering::Acquire)
    }

    /// Returns whether somebody is to look, without an order to anything else.
    #[cfg(test)]
    pub fn is_announced(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Hands over what came, queue by queue. Only the owner does this.
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

    /// Runs what is owned, and gives it up by dropping `owned`. `run` takes what came
    /// and returns whether more work is left than is for this owner. What came too late
    /// is seen to here, by somebody else who owns it by then, or by the device's own
    /// thread, which `kick` wakes.
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
                // Whoever holds it looks.
                None => return,
            }
        }
    }

    /// Gives up what is owned without running it; what came, or is left, is for the
    /// device's own thread.
    #[inline]
    pub fn leave<G>(&self, owned: G, more: bool, kick: impl FnOnce()) {
        drop(owned);
        if more || self.wait() {
            kick();
        }
    }
}
