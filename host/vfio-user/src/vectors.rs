//! The eventfds that a VMM assigned to its interrupt vectors.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::eventfd::{EventFd, Signaller};
use manatee_common::closer::Foreign;

/// The shortest interval between two deliveries of a moderated vector: a guest that sends as
/// fast as it can is notified of several completions at once. Each interrupt makes a
/// driver ring two doorbells, and each doorbell is a message that QEMU sends.
const HOLD: Duration = Duration::from_micros(500);

/// Why descriptors can't be assigned to vectors.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// The descriptor is no eventfd. Nothing was written to it.
    #[error("the descriptor for vector {0} is no eventfd: send one that `eventfd` made")]
    NotAnEventFd(u32),
    /// There is no such vector.
    #[error("vector {0} is none: there are {1}")]
    NoVector(u32, u32),
    /// The kernel refuses the context that signals eventfds.
    #[error(
        "eventfds can't be signalled, since the kernel gives no asynchronous I/O ({0}): raise \
         `sysctl fs.aio-max-nr`, or take a kernel with CONFIG_AIO"
    )]
    Unavailable(String),
}

/// A vector's state, for another process to continue with.
#[derive(Debug)]
pub struct VectorState {
    /// Its number.
    pub vector: u16,
    /// The eventfd that the VMM assigned.
    pub eventfd: Option<OwnedFd>,
    /// Which assignment of an eventfd that was: another number for each.
    pub assignment: u64,
    /// Whether the VMM has masked it.
    pub masked: bool,
    /// Whether it was raised and not delivered yet.
    pub pending: bool,
}

/// Interrupt vectors and their eventfds. Cheap to clone; every clone is the same table.
///
/// A vector that is raised while it is masked, or while it has no eventfd, stays pending and is
/// delivered when that changes: a VMM that emulates the MSI-X table assigns an eventfd only
/// when the guest unmasks the vector, and a hardware table would have kept the pending bit.
///
/// Vectors that the guest's own doorbells raise are moderated: one that was just delivered
/// follows a little later, when `deliver_late` is called, which is the
/// caller's task. Other vectors are delivered at once, and so are all deferred ones when packets
/// arrive ([`hurry`](Self::hurry)): a device does not raise again what it has raised.
#[derive(Clone, Debug)]
pub struct Vectors(Arc<Table>);

#[derive(Debug)]
struct Table {
    slots: Box<[Mutex<Slot>]>,
    /// Deferred vectors with the time when they are due, the earliest first.
    late: Mutex<Vec<(u16, Instant)>>,
    signaller: io::Result<Signaller>,
    /// Eventfds that were assigned so far.
    assignments: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    eventfd: Option<EventFd>,
    /// Which assignment that was.
    assignment: u64,
    masked: bool,
    pending: bool,
    /// The time of the last delivery.
    delivered: Option<Instant>,
    /// Whether it is deferred.
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

    /// Raises the vector, unless it was delivered a moment ago: then it is deferred. Returns until
    /// when, if it was not deferred before.
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

    /// Returns whether it was raised and not delivered.
    fn is_waiting(&self) -> bool {
        self.pending || self.late && (self.masked || self.eventfd.is_none())
    }

    /// Delivers the vector if it is pending and can be delivered now.
    fn release(&mut self) {
        if self.pending {
            self.raise(Instant::now());
        }
    }
}

impl Table {
    fn next_assignment(&self) -> u64 {
        self.assignments.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Vectors {
    /// Creates a table of `count` vectors without eventfds.
    pub fn new(count: u16) -> Self {
        Self(Arc::new(Table {
            slots: (0..count).map(|_| Mutex::default()).collect(),
            late: Mutex::default(),
            signaller: Signaller::new(),
            assignments: AtomicU64::new(0),
        }))
    }

    /// Returns the number of vectors.
    pub fn count(&self) -> u32 {
        self.0.slots.len() as u32
    }

    /// Assigns eventfds to the vectors from `start` on; all or none.
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
            slot.assignment = self.0.next_assignment();
            slot.release();
        }
        Ok(())
    }

    /// Takes the eventfds of vectors away, and forgets which are pending. Deferred vectors are
    /// delivered first, as they would have been without that.
    pub(super) fn deassign(&self, vectors: Range<u32>) {
        self.each(vectors, |slot| {
            if slot.late {
                slot.raise(Instant::now());
            }
            slot.eventfd = None;
            slot.pending = false;
        });
    }

    /// Returns to the state after [`new`](Self::new).
    pub(super) fn clear(&self) {
        self.each(0..self.count(), |slot| *slot = Slot::default());
    }

    /// Forgets which vectors are pending, as a reset of the device does; the eventfds stay.
    pub fn forget_pending(&self) {
        self.each(0..self.count(), |slot| {
            slot.pending = false;
            slot.late = false;
        });
    }

    /// Returns the vectors whose state differs from [`new`](Self::new)'s, for
    /// [`restore`](Self::restore) in another process. Delivers the deferred ones first.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn save(&self) -> io::Result<Vec<VectorState>> {
        self.hurry();
        let mut saved = Vec::new();
        for (vector, slot) in (0..).zip(&self.0.slots) {
            let slot = slot.lock();
            if slot.eventfd.is_none() && !slot.masked && !slot.pending {
                continue;
            }
            let own = |eventfd: &EventFd| eventfd.as_fd().try_clone_to_owned();
            saved.push(VectorState {
                vector,
                assignment: slot.assignment,
                eventfd: slot.eventfd.as_ref().map(own).transpose()?,
                masked: slot.masked,
                pending: slot.pending,
            });
        }
        Ok(saved)
    }

    /// Restores the vectors of another process. Delivers none that was pending there.
    ///
    /// # Errors
    ///
    /// [`AssignError`]; vectors before the failing one are restored.
    pub fn restore(&self, saved: Vec<VectorState>) -> Result<(), AssignError> {
        let signaller = self.0.signaller.as_ref();
        for state in saved {
            let number = u32::from(state.vector);
            let slot = self.0.slots.get(usize::from(state.vector));
            let slot = slot.ok_or(AssignError::NoVector(number, self.count()))?;
            let check = |fd| {
                let signaller =
                    signaller.map_err(|error| AssignError::Unavailable(error.to_string()))?;
                let checked = signaller.check(Foreign::new(fd));
                checked.ok_or(AssignError::NotAnEventFd(number))
            };
            let eventfd = state.eventfd.map(check).transpose()?;
            *slot.lock() = Slot {
                eventfd,
                masked: state.masked,
                pending: state.pending,
                assignment: self.0.next_assignment(),
                ..Slot::default()
            };
        }
        Ok(())
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
    /// Returns when the next deferred vector is due, if there is one.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.0.late.lock().first().map(|(_, until)| *until)
    }

    /// Delivers the vectors that are due.
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

    /// Delivers a deferred vector, unless it was delivered with a later one meanwhile.
    fn deliver(&self, vector: u16, now: Instant) {
        let mut slot = self.0.slots[usize::from(vector)].lock();
        if slot.late {
            slot.raise(now);
        }
    }

    /// Raises a vector for a doorbell, as [`raise_late`](Self::raise_late) does.
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

/// The methods for a function that raises interrupts, from any thread; none blocks.
impl Vectors {
    /// Raises a vector. One beyond the table is ignored.
    pub fn raise(&self, vector: u16) {
        if let Some(slot) = self.0.slots.get(usize::from(vector)) {
            slot.lock().raise(Instant::now());
        }
    }

    /// Returns whether a vector was raised and not delivered: its pending bit as the guest sees
    /// it.
    pub fn is_pending(&self, vector: u16) -> bool {
        let slot = self.0.slots.get(usize::from(vector));
        slot.is_some_and(|slot| slot.lock().is_waiting())
    }

    /// Raises a vector because of a doorbell of the guest: defers it if it was just delivered.
    pub fn raise_late(&self, vector: u16) {
        self.raise_moderated(vector, Instant::now());
    }

    /// Delivers all deferred vectors now.
    pub fn hurry(&self) {
        // One at a time, so that the list keeps its allocation and no two locks are held.
        let next = || self.0.late.lock().pop();
        while let Some((vector, _)) = next() {
            self.deliver(vector, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
