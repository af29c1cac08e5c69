//! The thread of a device: it waits for packets, and for remaining work.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll;

use super::handle::Shared;
use super::poller::KICK;
use crate::runtime::Failure;
use manatee_common::ration::{MAX_LINE, clean};

/// The interval for checking a device that another thread owns.
const SOON: Duration = Duration::from_millis(1);

/// How long guest memory may be unmapped before the device is notified: long enough for a VMM
/// that changes its memory map.
const PATIENCE: Duration = Duration::from_millis(250);

/// Starts the thread; it ends with the device.
pub fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let (epoll, kick) = (shared.poller.epoll.clone(), shared.poller.kick.clone());
    thread::Builder::new()
        .name("device".into())
        .spawn(move || run(&weak, &epoll, &kick))?;
    Ok(())
}

fn run(shared: &Weak<Shared>, epoll: &OwnedFd, kick: &OwnedFd) {
    let mut events = Vec::with_capacity(64);
    // When the wait for guest memory ends, and when delayed packets and interrupts are due.
    let (mut give_up, mut due, mut interrupt) = (None, None, None);
    loop {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        let until = [give_up, due, interrupt].into_iter().flatten().min();
        match epoll::wait(epoll, spare, until.map(left).as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::error!(%error, "waiting for packets failed; the device receives no more");
                return;
            }
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        for event in &events {
            match event.data.u64() {
                KICK => {
                    let _ = rustix::io::read(kick, &mut [0; 8]);
                }
                queue => shared.wakes.add(queue as usize),
            }
        }
        // A half-updated device is not used again: it reads as ones and reports why.
        let in_time = !events.is_empty() || give_up.is_none_or(|at| Instant::now() < at);
        let look = AssertUnwindSafe(|| shared.look(in_time));
        if let Err(panic) = catch_unwind(look) {
            let failure = panicked(&*panic);
            tracing::error!("{failure}");
            shared.inner.lock().end(failure);
            return;
        }
        let (absent, known) = shared.waits();
        // Whoever delays packets when none were delayed wakes this thread.
        due = known.unwrap_or_else(|| due.map(|_| Instant::now() + SOON));
        interrupt = shared.interrupts_due.next().map(not_over);
        let again = give_up.filter(|_| events.is_empty());
        give_up = absent.then(|| again.unwrap_or_else(|| Instant::now() + PATIENCE));
    }
}

/// Returns when to look at an interrupt that is due at this time: a little later if that is over,
/// since the thread that owns the device raises it then.
fn not_over(at: Instant) -> Instant {
    let now = Instant::now();
    if at > now { at } else { now + SOON }
}

/// Returns the time until then.
fn left(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: left.as_secs().min(3600) as i64,
        tv_nsec: left.subsec_nanos().into(),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = clean(text.unwrap_or("no text").as_bytes(), MAX_LINE / 2);
    Failure::because(&format!(
        "the host's own code for it panicked: {text}. It is of no use any more, also after a \
         reset: make another device, and report this as a bug in manatee"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::component::Component;
    use crate::device::{Device, Port};
    use crate::endpoint::{Queue, QueueIo, Single, TxBatch, TxStatus};
    use crate::interrupt::{Interrupts, VectorSink};

    /// Panics on the device's own thread.
    struct Broken(Arc<OwnedFd>);

    impl Queue for Broken {
        fn transmit(&mut self, _: &mut QueueIo<'_>, _: TxBatch<'_>, _: &mut Vec<TxStatus>) {}

        fn receive(&mut self, _: &mut QueueIo<'_>) -> bool {
            let own = thread::current().name() == Some("device");
            assert!(!own, "out of\norder");
            false
        }

        fn cancel_transmit(&mut self) {}

        fn readiness(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }
    }

    struct Nowhere;

    impl VectorSink for Nowhere {
        fn raise(&self, _vector: u16) {}
    }

    #[test]
    fn device_whose_own_thread_panics_has_failed_for_good() {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let port = Port {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_speed_mbps: 10_000,
            endpoint: Box::new(Single::new("broken", Broken(bell.clone()))),
        };
        let component = Component::embedded().unwrap();
        let interrupts = Interrupts::Vectors(Box::new(Nowhere));
        let device = Device::new(&component, vec![port], interrupts).unwrap();
        let read = || {
            device.config_write(4, &[6, 0]);
            let mut register = [0; 8];
            device.bar_read(0, 8, &mut register);
            register
        };
        assert_ne!(read(), [0xff; 8]);
        rustix::io::write(&*bell, &1u64.to_ne_bytes()).unwrap();
        let begun = std::time::Instant::now();
        while device.failure().is_none() {
            assert!(begun.elapsed().as_secs() < 60, "nobody noticed");
            thread::yield_now();
        }
        let reason = device.failure().unwrap().reason;
        assert!(reason.contains("panicked: out of order"), "{reason}");
        for _ in 0..2 {
            assert_eq!(read(), [0xff; 8]);
            assert!(device.save().is_err());
            assert_eq!(device.inspect()["runtime"]["state"], "down");
            device.reset();
            assert_eq!(device.failure().unwrap().reason, reason);
            device.detach();
        }
    }
}
