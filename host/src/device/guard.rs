//! Owning a device for a moment, and handling what other threads want of it meanwhile.
//!
//! The device's own thread never waits for the lock: it records what woke it and continues, and
//! the lock's holder checks for that before the device is idle again. Waiting would cost both
//! threads a system call for each burst of packets.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use parking_lot::MutexGuard;

use super::handle::Shared;
use super::inner::DeviceInner;

/// Access to the device for the holder of its lock.
pub struct DeviceGuard<'a> {
    shared: &'a Shared,
    /// None once it was given up.
    inner: Option<MutexGuard<'a, DeviceInner>>,
}

impl Shared {
    /// Waits for the lock, and returns the device.
    #[inline]
    pub fn own(&self) -> DeviceGuard<'_> {
        self.owned(self.inner.lock())
    }

    /// Handles what woke the device's thread, or leaves it to the current owner of the device.
    pub fn go_on(&self) {
        self.wakes.announce();
        if let Some(inner) = self.inner.try_lock() {
            self.owned(inner).settle();
        }
    }

    /// Handles what woke the device's thread, or that guest memory did not come back in time.
    pub fn look(&self, in_time: bool) {
        if in_time {
            return self.go_on();
        }
        let mut inner = self.own();
        inner.stop_waiting();
        inner.settle();
    }

    /// Returns whether the device waits for guest memory to come back, and when delayed packets may
    /// be sent. If another thread owns the device and may change that, returns true and None.
    pub fn waits(&self) -> (bool, Option<Option<Instant>>) {
        // Whoever takes the lock, even to read, has to check for wakes when giving it up:
        // other threads rely on that.
        let inner = self.inner.try_lock();
        let owner = inner.map(|inner| self.owned(inner));
        match owner {
            Some(owner) => (owner.state_ref().absence.waiting, Some(owner.due())),
            None => (true, None),
        }
    }

    #[inline]
    fn owned<'a>(&'a self, inner: MutexGuard<'a, DeviceInner>) -> DeviceGuard<'a> {
        let mut owned = inner;
        owned.begin_stay();
        DeviceGuard {
            shared: self,
            inner: Some(owned),
        }
    }
}

impl DeviceGuard<'_> {
    /// Runs the device until it has nothing left to do, and gives it up. Work that is left when
    /// another thread should get a turn is for the device's own thread.
    #[inline]
    pub fn settle(mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        let Shared {
            inner: lock,
            wakes,
            poller,
            ..
        } = self.shared;
        let run = |inner: &mut MutexGuard<'_, DeviceInner>| {
            wakes.take(|queue| inner.wake_queue(queue));
            inner.settle()
        };
        let try_again = || {
            let mut inner = lock.try_lock()?;
            inner.begin_stay();
            Some(inner)
        };
        wakes.settle(inner, run, try_again, || poller.kick());
    }

    /// Gives the device up without running it; work is for the device's own thread.
    #[inline]
    pub fn leave(mut self) {
        if let Some(mut inner) = self.inner.take() {
            inner.publish();
            let more = inner.has_work() | inner.take_interrupt_alarm();
            let Shared { wakes, poller, .. } = self.shared;
            wakes.leave(inner, more, || poller.kick());
        }
    }
}

impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        if let Some(mut inner) = self.inner.take() {
            inner.publish();
            let Shared { wakes, poller, .. } = self.shared;
            let more = inner.recovering | inner.take_interrupt_alarm();
            wakes.leave(inner, more, || poller.kick());
        }
    }
}

impl Deref for DeviceGuard<'_> {
    type Target = DeviceInner;

    fn deref(&self) -> &DeviceInner {
        self.inner.as_ref().expect("it is given up at the end only")
    }
}

impl DerefMut for DeviceGuard<'_> {
    fn deref_mut(&mut self) -> &mut DeviceInner {
        self.inner.as_mut().expect("it is given up at the end only")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::component::Component;
    use crate::device::{Device, Port};
    use crate::endpoint::{Queue, QueueIo, Single, TxBatch, TxStatus};
    use crate::interrupt::{Interrupts, VectorSink};

    /// Counts how often it is asked for packets, which it never has.
    struct Bell {
        bell: Arc<OwnedFd>,
        asked: Arc<AtomicUsize>,
    }

    impl Queue for Bell {
        fn transmit(&mut self, _: &mut QueueIo<'_>, _: TxBatch<'_>, _: &mut Vec<TxStatus>) {}

        fn receive(&mut self, _: &mut QueueIo<'_>) -> bool {
            self.asked.fetch_add(1, Ordering::SeqCst);
            false
        }

        fn cancel_transmit(&mut self) {}

        fn readiness(&self) -> Option<BorrowedFd<'_>> {
            Some(self.bell.as_fd())
        }
    }

    struct Nowhere;

    impl VectorSink for Nowhere {
        fn raise(&self, _vector: u16) {}
    }

    fn wait_until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came");
            thread::yield_now();
        }
    }

    #[test]
    fn wake_of_an_owned_device_is_handled() {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let endpoint = Bell {
            bell: bell.clone(),
            asked: asked.clone(),
        };
        let port = Port {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_speed_mbps: 10_000,
            endpoint: Box::new(Single::new("bell", endpoint)),
        };
        let component = Component::embedded().unwrap();
        let interrupts = Interrupts::Vectors(Box::new(Nowhere));
        let device = Device::new(&component, vec![port], interrupts).unwrap();
        // Memory space and bus master.
        device.config_write(4, &[6, 0]);
        let shared = &device.shared;
        let endings: [fn(DeviceGuard<'_>); 3] = [
            |owner| owner.settle(),
            |owner| owner.leave(),
            |owner| drop(owner),
        ];
        for _ in 0..100 {
            for end in endings {
                let owner = shared.own();
                let before = asked.load(Ordering::SeqCst);
                rustix::io::write(&*bell, &1u64.to_ne_bytes()).unwrap();
                wait_until(|| shared.wakes.is_announced());
                end(owner);
                wait_until(|| asked.load(Ordering::SeqCst) > before);
            }
        }
    }
}
