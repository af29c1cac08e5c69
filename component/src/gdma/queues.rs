//! All queues of the device, and how completions become events and events
//! become interrupts.

use alloc::vec::Vec;

use crate::gdma::caution::Caution;
use crate::gdma::cq::Cq;
use crate::gdma::eq::{Eq, Overrun};
use crate::gdma::regions::DmaRegions;
use crate::gdma::wq::{Direction, Wq};
use device_kit::FaultCounter;
use device_kit::platform::{Level, Platform};
use device_kit::ring::{Layout, Ring};
use device_kit::table::Table;
use mana_wire::gdma::Status;
use mana_wire::queue::{QueueType, eqe};

pub mod recover;
pub mod spare;
mod state;

/// Event queues: the hardware channel's, and one for every vport, which is
/// also enough for drivers that have one a CPU and share it.
pub const MAX_EQS: usize = 257;
/// Send queues, and as many receive queues.
pub const MAX_WQS: usize = 257;
/// Completion queues: one a work queue.
pub const MAX_CQS: usize = 2 * MAX_WQS;
/// MSI-X vectors: the hardware channel's, and one a CPU.
pub const MAX_VECTORS: u16 = 65;

/// The queues. Ids begin at 1, so that 0 never names one.
#[derive(Debug, Default)]
pub struct Queues {
    eqs: Table<Eq>,
    cqs: Table<Cq>,
    sqs: Table<Wq>,
    rqs: Table<Wq>,
    /// Completion queues with completions since the last [`flush`](Self::flush).
    dirty_cqs: Vec<u32>,
    /// Event queues that may owe an interrupt.
    dirty_eqs: Vec<u32>,
    vectors: Vec<u16>,
    /// After a failure.
    pub caution: Caution,
    /// Doorbells that named no queue, or made no sense.
    pub bad_doorbells: FaultCounter,
    /// Events that did not fit.
    pub eq_overruns: FaultCounter,
}

/// What a new queue is to be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A send queue.
    Sq,
    /// A receive queue.
    Rq,
    /// A completion queue, with the event queue that it reports to.
    Cq(Option<u32>),
    /// An event queue, with its MSI-X vector.
    Eq(u16),
}

impl Queues {
    /// Whether a queue of this kind can be made.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub fn check(&self, kind: Kind) -> Result<(), Status> {
        let room = match kind {
            Kind::Sq => self.sqs.len() < MAX_WQS,
            Kind::Rq => self.rqs.len() < MAX_WQS,
            Kind::Cq(_) => self.cqs.len() < MAX_CQS,
            Kind::Eq(_) => self.eqs.len() < MAX_EQS,
        };
        let fits = match kind {
            Kind::Eq(vector) => vector < MAX_VECTORS,
            Kind::Cq(Some(eq)) => self.eqs.get(eq).is_some(),
            _ => true,
        };
        match (fits, room) {
            (false, _) => Err(Status::InvalidParameter),
            (true, false) => Err(Status::NoResources),
            (true, true) => Ok(()),
        }
    }

    /// Makes a queue of guest pages, whose number is a power of two. Returns
    /// its id.
    ///
    /// # Errors
    ///
    /// The status to answer with; the pages are given back.
    pub fn create(
        &mut self,
        platform: &mut impl Platform,
        kind: Kind,
        pages: Vec<u64>,
    ) -> Result<u32, (Status, Vec<u64>)> {
        if let Err(status) = self.check(kind) {
            return Err((status, pages));
        }
        let layout = match kind {
            Kind::Sq | Kind::Rq => Layout::Wrapping,
            Kind::Cq(_) | Kind::Eq(_) => Layout::Fixed,
        };
        let ring = Ring::new(platform, pages, layout);
        Ok(match kind {
            Kind::Sq => self.sqs.insert(Wq::new(ring, Direction::Send)),
            Kind::Rq => self.rqs.insert(Wq::new(ring, Direction::Receive)),
            Kind::Cq(eq) => self.cqs.insert(Cq::new(ring, eq)),
            Kind::Eq(vector) => self.eqs.insert(Eq::new(ring, vector)),
        })
    }

    /// Ends a queue and gives its pages back to the regions' account.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is none, [`Status::Busy`] if it is
    /// an event queue that completion queues report to.
    pub fn destroy(
        &mut self,
        platform: &mut impl Platform,
        regions: &mut DmaRegions,
        queue_type: QueueType,
        id: u32,
    ) -> Result<(), Status> {
        if queue_type == QueueType::Eq && self.cqs.iter().any(|(_, cq)| cq.eq == Some(id)) {
            return Err(Status::Busy);
        }
        let ring = match queue_type {
            QueueType::Sq => self.sqs.remove(id).map(|q| q.ring),
            QueueType::Rq => self.rqs.remove(id).map(|q| q.ring),
            QueueType::Cq => self.cqs.remove(id).map(|q| q.ring),
            QueueType::Eq => self.eqs.remove(id).map(|q| q.ring),
        };
        let pages = ring.ok_or(Status::InvalidHandle)?.release(platform);
        regions.release(&pages);
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.eqs.is_empty() && self.cqs.is_empty() && self.sqs.is_empty() && self.rqs.is_empty()
    }

    /// Ends every queue.
    pub fn clear(&mut self, platform: &mut impl Platform) {
        self.set_aside().release(platform);
    }

    /// A send queue by its id.
    #[inline]
    pub fn sq(&mut self, id: u32) -> Option<&mut Wq> {
        self.sqs.get_mut(id)
    }

    /// A send queue by its id, and how careful to be with it.
    #[inline]
    pub fn sq_with_caution(&mut self, id: u32) -> Option<(&mut Wq, &mut Caution)> {
        Some((self.sqs.get_mut(id)?, &mut self.caution))
    }

    /// A receive queue by its id, and how careful to be with it.
    #[inline]
    pub fn rq_with_caution(&mut self, id: u32) -> Option<(&mut Wq, &mut Caution)> {
        Some((self.rqs.get_mut(id)?, &mut self.caution))
    }

    /// A receive queue by its id.
    #[inline]
    pub fn rq(&mut self, id: u32) -> Option<&mut Wq> {
        self.rqs.get_mut(id)
    }

    /// A completion queue by its id.
    pub fn cq(&mut self, id: u32) -> Option<&mut Cq> {
        self.cqs.get_mut(id)
    }

    /// An event queue by its id.
    pub fn eq(&mut self, id: u32) -> Option<&mut Eq> {
        self.eqs.get_mut(id)
    }

    /// Completes entries of a send queue: `act` has the queue, and the
    /// completion queue to post to. None if either does not exist.
    #[inline]
    pub fn complete_sends<T>(
        &mut self,
        sq: u32,
        cq: u32,
        act: impl FnOnce(&mut Wq, &mut Cq) -> T,
    ) -> Option<T> {
        let wq = self.sqs.get_mut(sq);
        complete(wq, (cq, self.cqs.get_mut(cq)), &mut self.dirty_cqs, act)
    }

    /// Completes entries of a receive queue, as
    /// [`complete_sends`](Self::complete_sends) does.
    #[inline]
    pub fn complete_receives<T>(
        &mut self,
        rq: u32,
        cq: u32,
        act: impl FnOnce(&mut Wq, &mut Cq) -> T,
    ) -> Option<T> {
        let wq = self.rqs.get_mut(rq);
        complete(wq, (cq, self.cqs.get_mut(cq)), &mut self.dirty_cqs, act)
    }

    /// Posts an event that is not about a completion.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is no such queue,
    /// [`Status::NoResources`] if the event does not fit.
    pub fn post_event(
        &mut self,
        platform: &mut impl Platform,
        id: u32,
        event_type: u8,
        details: [u32; 3],
    ) -> Result<(), Status> {
        let eq = self.eqs.get_mut(id).ok_or(Status::InvalidHandle)?;
        let posted = eq.post(platform, event_type, details);
        self.note_event(platform, id, posted)
            .map_err(|Overrun| Status::NoResources)
    }

    /// A completion queue's doorbell.
    pub fn ring_cq(&mut self, platform: &mut impl Platform, id: u32, tail: u32, arm: bool) {
        let Some(cq) = self.cqs.get_mut(id) else {
            return self.bad_doorbell(platform, "CQ", id, tail);
        };
        if !cq.ring_doorbell(tail, arm) {
            return self.bad_doorbell(platform, "CQ", id, tail);
        }
        if cq.event_due() && !core::mem::replace(&mut cq.dirty, true) {
            self.dirty_cqs.push(id);
        }
    }

    /// An event queue's doorbell.
    pub fn ring_eq(&mut self, platform: &mut impl Platform, id: u32, tail: u32, arm: bool) {
        let Some(eq) = self.eqs.get_mut(id) else {
            return self.bad_doorbell(platform, "EQ", id, tail);
        };
        let was_full = eq.position.full();
        if !eq.ring_doorbell(tail, arm) {
            return self.bad_doorbell(platform, "EQ", id, tail);
        }
        self.dirty_eqs.push(id);
        if was_full {
            self.retry_events(id);
        }
    }

    /// Reports a doorbell that was ignored.
    pub fn bad_doorbell(&mut self, platform: &mut impl Platform, what: &str, id: u32, tail: u32) {
        if self.bad_doorbells.hit() {
            platform.log(
                Level::Warn,
                format_args!("ignored a doorbell of {what} {id} with tail {tail:#x}"),
            );
        }
    }

    /// Turns completions into events and events into interrupts. Called once
    /// at the end of every call into the device.
    #[inline]
    pub fn flush(&mut self, platform: &mut impl Platform) {
        while let Some(id) = self.dirty_cqs.pop() {
            self.flush_cq(platform, id);
        }
        if self.dirty_eqs.is_empty() {
            return;
        }
        while let Some(id) = self.dirty_eqs.pop() {
            if let Some(eq) = self.eqs.get_mut(id)
                && eq.take_interrupt()
                && !self.vectors.contains(&eq.vector)
            {
                self.vectors.push(eq.vector);
            }
        }
        if !self.vectors.is_empty() {
            platform.raise(&self.vectors);
            self.vectors.clear();
        }
    }

    fn flush_cq(&mut self, platform: &mut impl Platform, id: u32) {
        let Some(cq) = self.cqs.get_mut(id) else {
            return;
        };
        cq.dirty = false;
        if !cq.event_due() {
            return;
        }
        let Some(eq_id) = cq.eq else { return };
        let Some(eq) = self.eqs.get_mut(eq_id) else {
            return;
        };
        let posted = eq.post(platform, eqe::COMPLETION, [id, 0, 0]);
        // Without room for the event the queue stays armed, and the event
        // follows when the driver has consumed some.
        cq.armed = posted.is_err();
        let _ = self.note_event(platform, eq_id, posted);
    }

    fn note_event(
        &mut self,
        platform: &mut impl Platform,
        eq: u32,
        posted: Result<(), Overrun>,
    ) -> Result<(), Overrun> {
        if posted.is_err() && self.eq_overruns.hit() {
            platform.log(
                Level::Warn,
                format_args!("event queue {eq} overrun: the driver consumes too slowly"),
            );
        }
        self.dirty_eqs.push(eq);
        posted
    }

    /// Looks again at the completion queues that report to an event queue.
    fn retry_events(&mut self, eq: u32) {
        for (id, cq) in self.cqs.iter_mut() {
            if cq.eq == Some(eq) && cq.event_due() && !core::mem::replace(&mut cq.dirty, true) {
                self.dirty_cqs.push(id);
            }
        }
    }

    /// Each queue with its type and id, for inspection.
    pub fn for_each(&self, mut visit: impl FnMut(QueueType, u32, QueueRef<'_>)) {
        for (id, queue) in self.eqs.iter() {
            visit(QueueType::Eq, id, QueueRef::Eq(queue));
        }
        for (id, queue) in self.cqs.iter() {
            visit(QueueType::Cq, id, QueueRef::Cq(queue));
        }
        for (id, queue) in self.sqs.iter() {
            visit(QueueType::Sq, id, QueueRef::Wq(queue));
        }
        for (id, queue) in self.rqs.iter() {
            visit(QueueType::Rq, id, QueueRef::Wq(queue));
        }
    }
}

/// Has `act` complete entries, in the room that the driver made for what it
/// announced, and remembers the completion queue if it did.
#[inline]
fn complete<T>(
    wq: Option<&mut Wq>,
    (id, cq): (u32, Option<&mut Cq>),
    dirty_cqs: &mut Vec<u32>,
    act: impl FnOnce(&mut Wq, &mut Cq) -> T,
) -> Option<T> {
    let (wq, cq) = wq.zip(cq)?;
    if wq.take_announced() {
        cq.position.work_announced();
    }
    let was_dirty = cq.dirty;
    let done = act(wq, cq);
    if cq.dirty && !was_dirty {
        dirty_cqs.push(id);
    }
    Some(done)
}

/// A queue to look at.
#[derive(Clone, Copy, Debug)]
pub enum QueueRef<'a> {
    /// An event queue.
    Eq(&'a Eq),
    /// A completion queue.
    Cq(&'a Cq),
    /// A send or receive queue.
    Wq(&'a Wq),
}
