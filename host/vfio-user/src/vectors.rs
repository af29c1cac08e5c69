//! The eventfds that a VMM gave for its interrupt vectors.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::eventfd::{EventFd, Signaller};
use manatee_common::closer::Foreign;

/// How soon a vector may follow itself if it is moderated: a guest that sends as
/// fast as it can is notified of some completions at once. Each interrupt makes a
/// driver ring two doorbells, and each doorbell is a message that QEMU sends.
const HOLD: Duration = Duration::from_micros(500);

/// Why descriptors are not taken for vectors.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// It is something else, to which nothing is ever written.
    #[error("the descriptor for vector {0} is no eventfd: send one that `eventfd` made")]
    NotAnEventFd(u32),
    /// There is no such vector.
    #[error("vector {0} is none: there are {1}")]
    NoVector(u32, u32),
    /// The kernel signals no eventfds for us.
    #[error(
        "eventfds can't be signalled, since the kernel gives no asynchronous I/O ({0}): raise \
         `sysctl fs.aio-max-nr`, or take a kernel with CONFIG_AIO"
    )]
    Unavailable(String),
}

/// A vector as another process continues with it.
#[derive(Debug)]
pub struct VectorState {
    /// Its number.
    pub vector: u16,
    /// The eventfd that the VMM gave it.
    pub eventfd: Option<OwnedFd>,
    /// The VMM has masked it.
    pub masked: bool,
    /// It was raised and is held back.
    pub pending: bool,
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
/// is over (`deliver_late`). What comes from elsewhere is
/// delivered at once, and so is what was held back when packets come
/// ([`hurry`](Self::hurry)): a device does not raise again what it has raised.
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
    /// Creates a table of `count` vectors without eventfds.
    pub fn new(count: u16) -> Self {
        Self(Arc::new(Table {
            slots: (0..count).map(|_| Mutex::default()).collect(),
            late: Mutex::default(),
            signaller: Signaller::new(),
        }))
    }

    /// Returns the number of vectors.
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

    /// Goes back to the state after [`new`](Self::new).
    pub(super) fn clear(&self) {
        self.each(0..self.count(), |slot| *slot = Slot::default());
    }

    /// Forgets what is pending, as a reset of the device does; the eventfds
    /// stay.
    pub fn forget_pending(&self) {
        self.each(0..self.count(), |slot| {
            slot.pending = false;
            slot.late = false;
        });
    }

    /// Returns the vectors that are not as [`new`](Self::new) makes them, for
    /// [`restore`](Self::restore) in another process. What was moderated is delivered first.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no more descriptors.
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
                eventfd: slot.eventfd.as_ref().map(own).transpose()?,
                masked: slot.masked,
                pending: slot.pending,
            });
        }
        Ok(saved)
    }

    /// Continues with the vectors of another process. Nothing is delivered that was held back
    /// there.
    ///
    /// # Errors
    ///
    /// [`AssignError`]; vectors before the one that it is about are as they were saved.
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
    /// Returns until when the next vector is held back, if one is.
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

    /// Raises a vector as [`raise`](Self::raise) does, for a doorbell.
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

/// For a function that raises interrupts, from any thread; nothing here blocks.
impl Vectors {
    /// Raises a vector. One that the table lacks is ignored.
    pub fn raise(&self, vector: u16) {
        if let Some(slot) = self.0.slots.get(usize::from(vector)) {
            slot.lock().raise(Instant::now());
        }
    }

    /// Returns whether a vector was raised and is held back, as its pending bit shows the
    /// guest.
    pub fn is_pending(&self, vector: u16) -> bool {
        let slot = self.0.slots.get(usize::from(vector));
        slot.is_some_and(|slot| slot.lock().is_waiting())
    }

    /// Raises a vector for what a doorbell of the guest's own came to: a moment later, if
    /// it was just delivered.
    pub fn raise_late(&self, vector: u16) {
        self.raise_moderated(vector, Instant::now());
    }

    /// Delivers now what [`raise_late`](Self::raise_late) has not delivered yet.
    pub fn hurry(&self) {
        // One by one, so that the list keeps its memory and no two locks are held.
        let next = || self.0.late.lock().pop();
        while let Some((vector, _)) = next() {
            self.deliver(vector, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
