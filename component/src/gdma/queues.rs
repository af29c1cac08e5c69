//! All queues of the device, and how completions become events and events
//! become interrupts.

use alloc::vec::Vec;

use device_kit::FaultCounter;
use device_kit::platform::{Delayed, Level, MemoryError, Platform};
use device_kit::ring::{Layout, Ring};
use device_kit::table::Table;
use device_kit::window::View;
use mana_wire::gdma::Status;
use mana_wire::queue::{DimDoorbell, QueueType, eqe};

use super::caution::Caution;
use super::ids::{CqId, EqId, RqId, SqId, WqId};
use super::queue::cq::Cq;
use super::queue::eq::{Eq, Overrun};
use super::queue::moderation::Urgency;
use super::queue::wq::{Direction, Fetched, Wq, Wqe};
use super::regions::DmaRegions;
use crate::limits::{MAX_CQS, MAX_EQS, MAX_VECTORS, MAX_WQS};

/// The queues. Ids begin at 1; 0 is no queue.
#[derive(Debug, Default)]
pub struct Queues {
    pub(super) eqs: Table<Eq>,
    pub(super) cqs: Table<Cq>,
    pub(super) sqs: Table<Wq>,
    pub(super) rqs: Table<Wq>,
    /// Completion queues with completions since the last [`flush`](Self::flush).
    dirty_cqs: Vec<CqId>,
    /// Event queues that may owe an interrupt.
    dirty_eqs: Vec<EqId>,
    /// Vectors to be raised at the end of the call.
    vectors: Vec<u16>,
    /// Vectors to be raised soon, each with the least delay that was asked for.
    delayed: Vec<Delayed>,
    /// The caution after a failure.
    caution: Caution,
    /// Doorbells that were invalid, or of no queue.
    pub bad_doorbells: FaultCounter,
    /// Events that did not fit.
    pub eq_overruns: FaultCounter,
}

/// The type of a new queue, with its parameters.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A send queue.
    Sq,
    /// A receive queue.
    Rq,
    /// A completion queue, with the event queue that it reports to.
    Cq(Option<EqId>),
    /// An event queue, with its MSI-X vector.
    Eq(u16),
}

/// A doorbell of any type of queue.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    /// The queue's id.
    pub id: u32,
    /// The producer of a work queue, the consumer of the others.
    pub position: u32,
    /// Whether the driver asks for an event.
    pub arm: bool,
}

/// A reference to a queue of any type.
#[derive(Clone, Copy, Debug)]
pub enum QueueRef<'a> {
    /// An event queue.
    Eq(&'a Eq),
    /// A completion queue.
    Cq(&'a Cq),
    /// A send or receive queue.
    Wq(&'a Wq),
}

impl Queues {
    /// Checks that a queue of this kind can be made.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidParameter`] for a vector beyond the table or an event
    /// queue that does not exist, [`Status::NoResources`] if there are too many.
    pub fn check(&self, kind: Kind) -> Result<(), Status> {
        let has_room = match kind {
            Kind::Sq => self.sqs.len() < MAX_WQS,
            Kind::Rq => self.rqs.len() < MAX_WQS,
            Kind::Cq(_) => self.cqs.len() < MAX_CQS,
            Kind::Eq(_) => self.eqs.len() < MAX_EQS,
        };
        let is_valid = match kind {
            Kind::Eq(vector) => vector < MAX_VECTORS,
            Kind::Cq(Some(eq)) => self.eqs.get(eq.0).is_some(),
            _ => true,
        };
        match (is_valid, has_room) {
            (false, _) => Err(Status::InvalidParameter),
            (true, false) => Err(Status::NoResources),
            (true, true) => Ok(()),
        }
    }

    /// Makes an event queue of guest pages. As in the functions below, their number is
    /// a power of two, and the queue was [checked](Self::check).
    pub fn create_eq(
        &mut self,
        platform: &mut impl Platform,
        vector: u16,
        pages: Vec<u64>,
    ) -> EqId {
        let ring = Ring::new(platform, pages, Layout::Fixed);
        EqId(self.eqs.insert(Eq::new(ring, vector)))
    }

    /// Makes a completion queue.
    pub fn create_cq(
        &mut self,
        platform: &mut impl Platform,
        eq: Option<EqId>,
        pages: Vec<u64>,
    ) -> CqId {
        let ring = Ring::new(platform, pages, Layout::Fixed);
        CqId(self.cqs.insert(Cq::new(ring, eq)))
    }

    /// Makes a send queue.
    pub fn create_sq(&mut self, platform: &mut impl Platform, pages: Vec<u64>) -> SqId {
        let ring = Ring::new(platform, pages, Layout::Wrapping);
        SqId(self.sqs.insert(Wq::new(ring, Direction::Send)))
    }

    /// Makes a receive queue.
    pub fn create_rq(&mut self, platform: &mut impl Platform, pages: Vec<u64>) -> RqId {
        let ring = Ring::new(platform, pages, Layout::Wrapping);
        RqId(self.rqs.insert(Wq::new(ring, Direction::Receive)))
    }

    /// Destroys a queue and takes its pages off the regions' account.
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
        let reports_here = |cq: &Cq| cq.eq == Some(EqId(id));
        if queue_type == QueueType::Eq && self.cqs.iter().any(|(_, cq)| reports_here(cq)) {
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

    /// Destroys a work queue of an object, and its completion queue.
    pub fn destroy_pair(
        &mut self,
        platform: &mut impl Platform,
        regions: &mut DmaRegions,
        wq: WqId,
        cq: CqId,
    ) {
        let ended = self
            .destroy(platform, regions, wq.queue_type(), wq.number())
            .and_then(|()| self.destroy(platform, regions, QueueType::Cq, cq.0));
        ended.expect("the queues of an object");
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.eqs.is_empty() && self.cqs.is_empty() && self.sqs.is_empty() && self.rqs.is_empty()
    }

    /// Destroys every queue.
    pub fn clear(&mut self, platform: &mut impl Platform) {
        self.set_aside().release(platform);
    }

    /// Makes the device cautious from now on.
    pub fn be_cautious(&mut self, caution: Caution) {
        self.caution = caution;
    }

    /// Returns a work queue.
    #[inline]
    pub fn wq(&mut self, id: WqId) -> Option<&mut Wq> {
        match id {
            WqId::Sq(id) => self.sqs.get_mut(id.0),
            WqId::Rq(id) => self.rqs.get_mut(id.0),
        }
    }

    /// Returns a completion queue.
    pub fn cq(&mut self, id: CqId) -> Option<&mut Cq> {
        self.cqs.get_mut(id.0)
    }

    /// Returns an event queue.
    pub fn eq(&mut self, id: EqId) -> Option<&mut Eq> {
        self.eqs.get_mut(id.0)
    }

    /// Returns a reader of a work queue, which exists.
    #[inline]
    pub fn read(&mut self, id: WqId) -> Reader<'_> {
        let wq = match id {
            WqId::Sq(id) => self.sqs.get_mut(id.0),
            WqId::Rq(id) => self.rqs.get_mut(id.0),
        };
        Reader {
            id,
            wq: wq.expect("a work queue of its owner"),
            caution: &mut self.caution,
        }
    }

    /// Returns how many WQEs to hand to the host in a call: `most`, or one while
    /// cautious.
    #[inline]
    pub fn batch(&self, most: usize) -> usize {
        if self.caution.is_on() { 1 } else { most }
    }

    /// Completes WQEs of a work queue. `act` gets the queue and the completion queue
    /// that it reports to, after the latter has made room for the work that the driver
    /// announced. Both exist.
    #[inline]
    pub fn complete<T>(
        &mut self,
        wq: WqId,
        cq: CqId,
        act: impl FnOnce(&mut Wq, &mut Cq) -> T,
    ) -> T {
        let queue = match wq {
            WqId::Sq(id) => self.sqs.get_mut(id.0),
            WqId::Rq(id) => self.rqs.get_mut(id.0),
        };
        let pair = queue.zip(self.cqs.get_mut(cq.0));
        let (queue, reports_to) = pair.expect("a work queue and its completion queue");
        if queue.take_announced() {
            reports_to.position.work_announced();
        }
        let was_dirty = reports_to.is_dirty;
        let done = act(queue, reports_to);
        if reports_to.is_dirty && !was_dirty {
            self.dirty_cqs.push(cq);
        }
        done
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
        id: EqId,
        event_type: u8,
        details: [u32; 3],
    ) -> Result<(), Status> {
        let eq = self.eqs.get_mut(id.0).ok_or(Status::InvalidHandle)?;
        let posted = eq.post(platform, event_type, details, Urgency::PLAIN);
        self.note_event(platform, id, posted)
            .map_err(|Overrun| Status::NoResources)
    }

    /// Handles a completion queue's doorbell.
    pub fn ring_cq(&mut self, platform: &mut impl Platform, bell: Doorbell) {
        let Some(cq) = self.cqs.get_mut(bell.id) else {
            return self.bad_doorbell(platform, QueueType::Cq, bell);
        };
        if !cq.ring_doorbell(bell.position, bell.arm) {
            return self.bad_doorbell(platform, QueueType::Cq, bell);
        }
        if cq.is_event_due() && !core::mem::replace(&mut cq.is_dirty, true) {
            self.dirty_cqs.push(CqId(bell.id));
        }
    }

    /// Handles a doorbell that sets the moderation of a completion queue. One that sets
    /// neither limit changes nothing.
    pub fn ring_dim(&mut self, platform: &mut impl Platform, bell: DimDoorbell) {
        let id = bell.id();
        let Some(cq) = self.cqs.get_mut(id) else {
            let bell = Doorbell {
                id,
                position: 0,
                arm: false,
            };
            return self.bad_doorbell(platform, QueueType::Cq, bell);
        };
        cq.moderate(bell);
        if bell.is_usec_valid() != bell.are_completions_valid() {
            // A successor sees the last doorbell, which does not have both limits.
            platform.changed();
        }
        // An interrupt that waits may be due sooner now.
        if !core::mem::replace(&mut cq.is_dirty, true) {
            self.dirty_cqs.push(CqId(id));
        }
    }

    /// Handles an event queue's doorbell.
    pub fn ring_eq(&mut self, platform: &mut impl Platform, bell: Doorbell) {
        let id = EqId(bell.id);
        let Some(eq) = self.eqs.get_mut(id.0) else {
            return self.bad_doorbell(platform, QueueType::Eq, bell);
        };
        let was_full = eq.position.is_full();
        if !eq.ring_doorbell(bell.position, bell.arm) {
            return self.bad_doorbell(platform, QueueType::Eq, bell);
        }
        self.dirty_eqs.push(id);
        if was_full {
            self.retry_events(id);
        }
    }

    /// Has an event queue raise another vector from now on.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is no such queue,
    /// [`Status::InvalidParameter`] for a vector beyond the table.
    pub fn move_eq(&mut self, id: EqId, vector: u32) -> Result<(), Status> {
        let eq = self.eqs.get_mut(id.0).ok_or(Status::InvalidHandle)?;
        let vector = u16::try_from(vector).ok().filter(|it| *it < MAX_VECTORS);
        eq.move_to(vector.ok_or(Status::InvalidParameter)?);
        self.dirty_eqs.push(id);
        Ok(())
    }

    /// Counts and logs a doorbell that was ignored.
    pub fn bad_doorbell(
        &mut self,
        platform: &mut impl Platform,
        queue_type: QueueType,
        bell: Doorbell,
    ) {
        if self.bad_doorbells.hit() {
            let Doorbell { id, position, .. } = bell;
            platform.log(
                Level::Warn,
                format_args!("ignored a doorbell of {queue_type:?} {id} with {position:#x}"),
            );
        }
    }

    /// Turns completions into events and events into interrupts, which wait only if the
    /// host delays them. Called once at the end of every call into the device.
    #[inline]
    pub fn flush(&mut self, platform: &mut impl Platform, host_delays: bool) {
        while let Some(id) = self.dirty_cqs.pop() {
            self.flush_cq(platform, id);
        }
        if self.dirty_eqs.is_empty() {
            return;
        }
        while let Some(id) = self.dirty_eqs.pop() {
            let Some(eq) = self.eqs.get_mut(id.0) else {
                continue;
            };
            let Some(urgency) = eq.take_interrupt() else {
                continue;
            };
            let vector = eq.vector;
            match urgency.within.filter(|_| host_delays) {
                Some(usec) => self.raise_within(vector, usec, urgency.plain),
                None => self.raise(vector),
            }
        }
        if !self.delayed.is_empty() {
            // First, so that one that is raised at once as well does not wait too.
            platform.raise_within(&self.delayed);
            self.delayed.clear();
        }
        if !self.vectors.is_empty() {
            platform.raise(&self.vectors);
            self.vectors.clear();
        }
    }

    #[inline]
    fn raise(&mut self, vector: u16) {
        if !self.vectors.contains(&vector) {
            self.vectors.push(vector);
        }
    }

    /// Has a vector be raised within `usec` microseconds, and as soon as the host sees fit
    /// too if something is not moderated.
    fn raise_within(&mut self, vector: u16, usec: u16, plain: bool) {
        let microseconds = usec.into();
        let known = self.delayed.iter_mut().find(|it| it.vector == vector);
        match known {
            Some(known) => known.microseconds = known.microseconds.min(microseconds),
            None => self.delayed.push(Delayed {
                vector,
                microseconds,
            }),
        }
        if plain {
            self.raise(vector);
        }
    }

    /// Posts the event that is due for a completion queue, which may have been
    /// destroyed since it had completions, or has an interrupt that waits come sooner.
    fn flush_cq(&mut self, platform: &mut impl Platform, id: CqId) {
        let Some(cq) = self.cqs.get_mut(id.0) else {
            return;
        };
        cq.is_dirty = false;
        let Some(eq_id) = cq.eq else { return };
        if !cq.is_event_due() && cq.moderation.is_none() {
            return;
        }
        let eq = self.eqs.get_mut(eq_id.0);
        let eq = eq.expect("an event queue that completion queues report to");
        if !cq.is_event_due() {
            if cq.is_held(eq.rung) {
                eq.hasten(cq.urgency());
                self.dirty_eqs.push(eq_id);
            }
            return;
        }
        let posted = eq.post(platform, eqe::COMPLETION, [id.0, 0, 0], cq.urgency());
        // Without room for the event the queue stays armed; the event is posted when
        // the driver has consumed others.
        if posted.is_ok() {
            cq.reported(eq.rung);
        }
        let _ = self.note_event(platform, eq_id, posted);
    }

    fn note_event(
        &mut self,
        platform: &mut impl Platform,
        eq: EqId,
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

    /// Marks the completion queues that report to an event queue as dirty.
    fn retry_events(&mut self, eq: EqId) {
        for (id, cq) in self.cqs.iter_mut() {
            let is_due = cq.eq == Some(eq) && cq.is_event_due();
            if is_due && !core::mem::replace(&mut cq.is_dirty, true) {
                self.dirty_cqs.push(CqId(id));
            }
        }
    }

    /// Has [`flush`](Self::flush) look at every queue, whether or not anything was
    /// posted.
    pub fn owe_everything(&mut self) {
        for (id, _) in self.eqs.iter() {
            self.dirty_eqs.push(EqId(id));
        }
        for (id, cq) in self.cqs.iter_mut() {
            cq.is_dirty = true;
            self.dirty_cqs.push(CqId(id));
        }
    }

    /// Visits each event queue.
    pub fn eqs_mut(&mut self) -> impl Iterator<Item = (EqId, &mut Eq)> {
        self.eqs.iter_mut().map(|(id, eq)| (EqId(id), eq))
    }

    /// Visits each completion queue.
    pub fn cqs_mut(&mut self) -> impl Iterator<Item = (CqId, &mut Cq)> {
        self.cqs.iter_mut().map(|(id, cq)| (CqId(id), cq))
    }

    /// Visits each work queue.
    pub fn wqs_mut(&mut self) -> impl Iterator<Item = (WqId, &mut Wq)> {
        let sqs = self.sqs.iter_mut();
        let sqs = sqs.map(|(id, wq)| (WqId::Sq(SqId(id)), wq));
        let rqs = self.rqs.iter_mut();
        sqs.chain(rqs.map(|(id, wq)| (WqId::Rq(RqId(id)), wq)))
    }

    /// Visits each queue with its type and id, for inspection.
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

/// A reader of a work queue's WQEs, which announces them while the device is cautious.
#[derive(Debug)]
pub struct Reader<'a> {
    id: WqId,
    /// The queue.
    pub wq: &'a mut Wq,
    caution: &'a mut Caution,
}

impl Reader<'_> {
    /// Shows WQEs as [`Wq::view_units`] does; none while the device is cautious,
    /// because each has to be announced first.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if their memory is gone.
    #[inline]
    pub fn view_units(
        &mut self,
        platform: &mut impl Platform,
        most: usize,
    ) -> Result<View<'_>, MemoryError> {
        let most = if self.caution.is_on() { 0 } else { most };
        self.wq.view_units(platform, most)
    }

    /// Copies the next WQE, once, and marks it as read. Announces it first if the
    /// device is cautious.
    #[inline]
    pub fn fetch(&mut self, platform: &mut impl Platform, wqe: &mut Wqe) -> Fetched {
        let is_skipped = self.caution.is_on() && self.wq.has_work() && {
            let position = self.wq.positions().read;
            self.caution.attempt(platform, self.id, position)
        };
        match self.wq.fetch(platform, wqe) {
            Fetched::Nothing => Fetched::Nothing,
            _ if is_skipped => Fetched::Skipped,
            fetched => fetched,
        }
    }
}
