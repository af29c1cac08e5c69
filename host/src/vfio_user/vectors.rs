//! The eventfds that a VMM gave for its interrupt vectors.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::eventfd::{EventFd, Signaller};
use crate::closer::Foreign;
use crate::interrupt::VectorSink;

/// How soon a vector may follow itself if it is moderated: a guest that sends as
/// fast as it can is told of some completions at once. Each interrupt makes a
/// driver ring two doorbells, and each doorbell is a message that QEMU sends.
const HOLD: Duration = Duration::from_micros(500);

/// Why descriptors are not taken for vectors.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssignError {
    /// It is something else, to which nothing is ever written.
    #[error("the descriptor for vector {0} is no eventfd: send one that `eventfd` made")]
    NotAnEventFd(u32),
    /// The kernel signals no eventfds for us.
    #[error(
        "eventfds can't be signalled, since the kernel gives no asynchronous I/O ({0}): raise \
         `sysctl fs.aio-max-nr`, or take a kernel with CONFIG_AIO"
    )]
    Unavailable(String),
}

/// Interrupt vectors and the eventfds behind them. Cheap to clone; every clone
/// is the same table.
///
/// A vector that is raised while it is masked, or while it has no eventfd, is
/// remembered and delivered when that changes: a VMM that emulates the MSI-X
/// table assigns an eventfd only when the guest unmasks the vector, and a
/// hardware table would have kept its pending bit.
///
/// What is raised by a guest's own doing, its doorbells, is moderated: a vector
/// that was just delivered comes a little later. Whoever rings has to say when that
/// is over ([`deliver_late`](Self::deliver_late)). What comes from elsewhere is
/// delivered at once, and so is what was held back when packets come
/// ([`hurry`](VectorSink::hurry)): a device does not raise again what it has raised.
#[derive(Clone, Debug)]
pub struct Vectors(Arc<Table>);

#[derive(Debug)]
struct Table {
    slots: Box<[Mutex<Slot>]>,
    /// Vectors that are held back, and until when; the earliest first.
    late: Mutex<Vec<(u16, Instant)>>,
    signaller: io::Result<Signaller>,
}

#[derive(Debug, Default)]
struct Slot {
    eventfd: Option<EventFd>,
    masked: bool,
    pending: bool,
    /// When it was delivered last.
    delivered: Option<Instant>,
    /// It is held back.
    late: bool,
}

impl Slot {
    fn raise(&mut self, now: Instant) {
        self.late = false;
        match &self.eventfd {
            Some(eventfd) if !self.masked => {
                self.pending = false;
                self.delivered = Some(now);
                eventfd.signal();
            }
            _ => self.pending = true,
        }
    }

    /// Raises, unless it was delivered a moment ago. Returns until when it is held
    /// back, if it is and was not before.
    fn raise_moderated(&mut self, now: Instant) -> Option<Instant> {
        let until = self.delivered.map(|delivered| delivered + HOLD);
        match until.filter(|until| now < *until) {
            None => self.raise(now),
            Some(until) => {
                if !std::mem::replace(&mut self.late, true) {
                    return Some(until);
                }
            }
        }
        None
    }

    /// Returns whether it was raised and is held back.
    fn is_waiting(&self) -> bool {
        self.pending || self.late && (self.masked || self.eventfd.is_none())
    }

    /// Delivers what had to wait, if nothing holds it back any more.
    fn release(&mut self) {
        if self.pending {
            self.raise(Instant::now());
        }
    }
}

impl Vectors {
    /// A table of `count` vectors without eventfds.
    pub fn new(count: u16) -> Self {
        Self(Arc::new(Table {
            slots: (0..count).map(|_| Mutex::default()).collect(),
            late: Mutex::default(),
            signaller: Signaller::new(),
        }))
    }

    /// Number of vectors.
    pub fn count(&self) -> u32 {
        self.0.slots.len() as u32
    }

    /// Gives eventfds to the vectors from `start` on; all or none.
    pub(super) fn assign(&self, start: u32, fds: Vec<Foreign>) -> Result<(), AssignError> {
        let signaller = self.0.signaller.as_ref();
        let signaller = signaller.map_err(|error| AssignError::Unavailable(error.to_string()))?;
        let checked = |(vector, fd)| {
            let eventfd = signaller.check(fd);
            eventfd.ok_or(AssignError::NotAnEventFd(vector))
        };
        let eventfds: Result<Vec<_>, _> = (start..).zip(fds).map(checked).collect();
        let eventfds = eventfds?;
        for (slot, eventfd) in self.0.slots.iter().skip(start as usize).zip(eventfds) {
            let mut slot = slot.lock();
            slot.eventfd = Some(eventfd);
            slot.release();
        }
        Ok(())
    }

    /// Takes the eventfds of vectors away, and forgets what was pending. What was
    /// held back is delivered first, as it would have been without that.
    pub(super) fn deassign(&self, vectors: Range<u32>) {
        self.each(vectors, |slot| {
            if slot.late {
                slot.raise(Instant::now());
            }
            slot.eventfd = None;
            slot.pending = false;
        });
    }

    /// Back to the state after [`new`](Self::new).
    pub(super) fn clear(&self) {
        self.each(0..self.count(), |slot| *slot = Slot::default());
    }

    /// Forgets what is pending, as a reset of the device does; the eventfds
    /// stay.
    pub(super) fn forget_pending(&self) {
        self.each(0..self.count(), |slot| {
            slot.pending = false;
            slot.late = false;
        });
    }

    pub(super) fn mask(&self, vectors: Range<u32>) {
        self.each(vectors, |slot| slot.masked = true);
    }

    pub(super) fn unmask(&self, vectors: Range<u32>) {
        self.each(vectors, |slot| {
            slot.masked = false;
            slot.release();
        });
    }

    fn each(&self, vectors: Range<u32>, act: impl Fn(&mut Slot)) {
        let slots = self.0.slots.iter().skip(vectors.start as usize);
        for slot in slots.take(vectors.len()) {
            act(&mut slot.lock());
        }
    }
}

impl Vectors {
    /// Until when the next vector is held back, if one is.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.0.late.lock().first().map(|(_, until)| *until)
    }

    /// Delivers what was held back until now.
    pub(super) fn deliver_late(&self, now: Instant) {
        let due = |late: &mut Vec<(u16, Instant)>| {
            let first = late.first()?;
            (first.1 <= now).then(|| late.remove(0).0)
        };
        loop {
            let Some(vector) = due(&mut self.0.late.lock()) else {
                return;
            };
            self.deliver(vector, now);
        }
    }

    /// Delivers a vector that was held back, unless it went along with another one
    /// meanwhile.
    fn deliver(&self, vector: u16, now: Instant) {
        let mut slot = self.0.slots[usize::from(vector)].lock();
        if slot.late {
            slot.raise(now);
        }
    }

    /// As [`raise`](VectorSink::raise), for a doorbell.
    fn raise_moderated(&self, vector: u16, now: Instant) {
        let Some(slot) = self.0.slots.get(usize::from(vector)) else {
            return;
        };
        let held = slot.lock().raise_moderated(now);
        if let Some(until) = held {
            let mut late = self.0.late.lock();
            let at = late.partition_point(|(_, other)| *other <= until);
            late.insert(at, (vector, until));
        }
    }
}

impl VectorSink for Vectors {
    fn raise(&self, vector: u16) {
        if let Some(slot) = self.0.slots.get(usize::from(vector)) {
            slot.lock().raise(Instant::now());
        }
    }

    fn is_pending(&self, vector: u16) -> bool {
        let slot = self.0.slots.get(usize::from(vector));
        slot.is_some_and(|slot| slot.lock().is_waiting())
    }

    fn raise_late(&self, vector: u16) {
        self.raise_moderated(vector, Instant::now());
    }

    fn hurry(&self) {
        // One by one, so that the list keeps its memory and no two locks are held.
        let next = || self.0.late.lock().pop();
        while let Some((vector, _)) = next() {
            self.deliver(vector, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::EventfdFlags;

    use super::*;

    fn eventfd() -> OwnedFd {
        rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap()
    }

    fn copy(fd: &OwnedFd) -> Foreign {
        Foreign::new(fd.try_clone().unwrap())
    }

    /// How often the eventfd was signalled since the last call.
    fn count(fd: &OwnedFd) -> u64 {
        let mut data = [0; 8];
        rustix::io::read(fd, &mut data).map_or(0, |_| u64::from_ne_bytes(data))
    }

    #[test]
    fn raise_signals_its_eventfd_only() {
        let vectors = Vectors::new(2);
        let (a, b) = (eventfd(), eventfd());
        vectors.assign(0, vec![copy(&a), copy(&b)]).unwrap();
        vectors.raise(1);
        vectors.raise(1);
        vectors.raise(2);
        assert_eq!((count(&a), count(&b)), (0, 2));
    }

    #[test]
    fn what_was_raised_too_early_is_delivered_once() {
        let vectors = Vectors::new(1);
        vectors.raise(0);
        vectors.raise(0);
        let fd = eventfd();
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        assert_eq!(count(&fd), 1);
        vectors.mask(0..1);
        vectors.raise(0);
        assert_eq!(count(&fd), 0);
        vectors.unmask(0..1);
        vectors.unmask(0..1);
        assert_eq!(count(&fd), 1);
    }

    #[test]
    fn reset_deassign_and_clear_forget_what_is_pending() {
        for forget in [
            |v: &Vectors| v.forget_pending(),
            |v: &Vectors| v.deassign(0..1),
            |v: &Vectors| v.clear(),
        ] {
            let vectors = Vectors::new(1);
            vectors.raise(0);
            forget(&vectors);
            let fd = eventfd();
            vectors.assign(0, vec![copy(&fd)]).unwrap();
            assert_eq!(count(&fd), 0);
        }
    }

    #[test]
    fn doorbells_raise_no_faster_than_they_may_and_lose_nothing() {
        let vectors = Vectors::new(2);
        let (a, b) = (eventfd(), eventfd());
        vectors.assign(0, vec![copy(&a), copy(&b)]).unwrap();
        let begun = Instant::now();
        let doorbell = |vector, after| vectors.raise_moderated(vector, begun + after);
        doorbell(0, Duration::ZERO);
        assert_eq!((count(&a), vectors.next_late()), (1, None), "the first");
        doorbell(0, HOLD / 4);
        doorbell(0, HOLD / 2);
        doorbell(1, HOLD / 2);
        assert_eq!((count(&a), count(&b)), (0, 1));
        assert_eq!(vectors.next_late(), Some(begun + HOLD));
        vectors.deliver_late(begun + HOLD / 2);
        assert_eq!(count(&a), 0, "too early");
        vectors.deliver_late(begun + HOLD);
        assert_eq!((count(&a), vectors.next_late()), (1, None));
        doorbell(0, 2 * HOLD);
        assert_eq!((count(&a), vectors.next_late()), (1, None));
    }

    #[test]
    fn what_is_held_back_goes_along_with_the_next_or_before_its_eventfd_goes() {
        let vectors = Vectors::new(1);
        let fd = eventfd();
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        let begun = Instant::now();
        let hold_back = || {
            vectors.raise_moderated(0, begun);
            count(&fd);
            vectors.raise_moderated(0, begun);
            assert_eq!(count(&fd), 0);
        };
        hold_back();
        vectors.raise(0);
        assert_eq!(count(&fd), 1);
        vectors.deliver_late(begun + Duration::from_secs(3600));
        assert_eq!((count(&fd), vectors.next_late()), (0, None));
        hold_back();
        vectors.hurry();
        assert_eq!((count(&fd), vectors.next_late()), (1, None));
        vectors.hurry();
        assert_eq!(count(&fd), 0);
        hold_back();
        vectors.deassign(0..1);
        assert_eq!(count(&fd), 1);
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        hold_back();
        vectors.forget_pending();
        vectors.deliver_late(begun + Duration::from_secs(3600));
        assert_eq!(count(&fd), 0);
    }

    #[test]
    fn only_what_a_doorbell_came_to_is_moderated() {
        let vectors = Vectors::new(1);
        let fd = eventfd();
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        let late = Instant::now() + Duration::from_secs(3600);
        vectors.0.slots[0].lock().delivered = Some(late);
        vectors.raise_late(0);
        assert_eq!(count(&fd), 0);
        vectors.raise(0);
        assert_eq!(count(&fd), 1);
    }

    #[test]
    fn only_eventfds_are_taken() {
        let vectors = Vectors::new(2);
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = eventfd();
        let refused = vectors.assign(0, vec![copy(&fd), Foreign::new(far.into())]);
        assert!(matches!(refused, Err(AssignError::NotAnEventFd(1))));
        vectors.raise(0);
        assert_eq!(count(&fd), 0, "all or none");
        drop(near);
    }

    #[test]
    fn full_blocking_eventfd_does_not_block() {
        let vectors = Vectors::new(1);
        let fd = rustix::event::eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        vectors.raise(0);
        vectors.raise(0);
        assert_eq!(count(&fd), u64::MAX, "what the kernel does to a full one");
        vectors.raise(0);
        assert_eq!(count(&fd), 1);
    }

    #[test]
    fn what_waits_is_seen_to_be_pending() {
        let vectors = Vectors::new(2);
        let fd = eventfd();
        vectors.raise(0);
        let pending = || [0, 1, 2].map(|vector| vectors.is_pending(vector));
        assert_eq!(pending(), [true, false, false], "without an eventfd");
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        assert_eq!(pending(), [false; 3]);
        vectors.mask(0..1);
        vectors.raise_late(0);
        assert_eq!(pending(), [true, false, false]);
        vectors.unmask(0..1);
        vectors.hurry();
        assert_eq!((pending(), count(&fd)), ([false; 3], 2));
    }

    #[test]
    fn ranges_beyond_the_table_are_harmless() {
        let vectors = Vectors::new(2);
        vectors.unmask(1..u32::MAX);
        vectors.raise(u16::MAX);
        vectors.mask(5..9);
        vectors.assign(2, vec![copy(&eventfd())]).unwrap();
        assert_eq!(vectors.count(), 2);
    }
}
