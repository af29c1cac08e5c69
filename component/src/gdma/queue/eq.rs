//! Event queues, in which the device notifies the driver, and which raise its
//! interrupts.
//!
//! A doorbell without the arm bit reports how far the driver has consumed and does not
//! disarm the queue, as for [completion queues](super::cq). Linux always rings with the
//! bit (`mana_gd_process_eq_events`); OpenVMM's driver rings without it after the
//! interrupt that it asked for.

use core::iter;

use device_kit::FaultCounter;
use device_kit::platform::{Level, Platform};
use device_kit::ring::Ring;
use mana_wire::queue::{EQE_SIZE, EqeInfo};

use super::moderation::Urgency;
use super::position::Position;
use crate::state as saved;

/// An event queue.
#[derive(Debug)]
pub struct Eq {
    /// Its memory.
    pub ring: Ring,
    /// MSI-X vector that it raises.
    pub vector: u16,
    /// Whether the driver wants an interrupt for the next event.
    pub is_armed: bool,
    /// The urgency of an interrupt for the events that the driver has not consumed.
    due: Urgency,
    /// The urgency with which the vector was raised since the driver last rang the doorbell.
    raised: Option<Urgency>,
    /// Doorbells, modulo 2^32.
    pub rung: u32,
    /// Events posted and consumed.
    pub position: Position,
    /// Events that were lost for lack of room or memory.
    pub lost: FaultCounter,
    /// Doorbells that were not valid.
    pub bad_doorbells: FaultCounter,
}

/// The error of an event that does not fit, because the driver has not consumed enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

impl Eq {
    /// Creates an event queue, armed, as drivers expect it.
    pub fn new(ring: Ring, vector: u16) -> Self {
        let position = Position::new(ring.size() / EQE_SIZE);
        Self {
            ring,
            vector,
            is_armed: true,
            due: Urgency::PLAIN,
            raised: None,
            rung: 0,
            position,
            lost: FaultCounter::default(),
            bad_doorbells: FaultCounter::default(),
        }
    }

    /// Continues an event queue that was saved and checked, over its memory.
    pub fn resume(ring: Ring, saved: &saved::Eq) -> Self {
        let urgency = |(plain, within)| Urgency { plain, within };
        Self {
            position: Position::resume(ring.size() / EQE_SIZE, &saved.ring, None),
            is_armed: saved.ring.is_armed,
            due: saved.due.map_or(Urgency::PLAIN, urgency),
            raised: saved.raised.map(urgency),
            lost: FaultCounter::from_count(saved.ring.lost),
            bad_doorbells: FaultCounter::from_count(saved.ring.bad_doorbells),
            ..Self::new(ring, saved.vector)
        }
    }

    /// Returns the queue to be saved.
    pub fn save(&self, id: u32) -> saved::Eq {
        let pair = |it: Urgency| (it.plain, it.within);
        let is_known = self.position.pending() > 0 && self.due != Urgency::PLAIN;
        saved::Eq {
            id,
            ring: saved::Ring {
                lost: self.lost.count(),
                bad_doorbells: self.bad_doorbells.count(),
                ..saved::Ring::of(&self.ring, self.position.counts(), self.is_armed)
            },
            vector: self.vector,
            due: is_known.then(|| pair(self.due)),
            raised: self.raised.map(pair),
        }
    }

    /// Posts an event of this urgency.
    ///
    /// # Errors
    ///
    /// [`Overrun`] if the driver has not consumed the event that it would overwrite,
    /// which stays.
    pub fn post(
        &mut self,
        platform: &mut impl Platform,
        event_type: u8,
        details: [u32; 3],
        urgency: Urgency,
    ) -> Result<(), Overrun> {
        if self.position.is_full() {
            return Err(Overrun);
        }
        self.due = match self.position.pending() {
            0 => urgency,
            _ => self.due.and(urgency),
        };
        let info = EqeInfo::new()
            .with_event_type(event_type)
            .with_owner(self.position.owner());
        let first = u64::from(details[0]) | u64::from(details[1]) << 32;
        let last = u64::from(details[2]) | u64::from(info.into_bits()) << 32;
        let at = self.position.index() * EQE_SIZE;
        let entry = iter::once(([first], last));
        if self.ring.publish(platform, at, 1, entry) > 0 && self.lost.hit() {
            platform.log(
                Level::Warn,
                format_args!("an event was lost: its queue is no longer in guest memory"),
            );
        }
        self.position.advance(1);
        Ok(())
    }

    /// Handles a doorbell. Returns false if it is invalid and was ignored.
    #[must_use]
    pub fn ring_doorbell(&mut self, consumer: u32, arm: bool) -> bool {
        if !self.position.consume_to(consumer) {
            self.bad_doorbells.hit();
            return false;
        }
        self.is_armed |= arm;
        self.raised = None;
        self.rung = self.rung.wrapping_add(1);
        true
    }

    /// Notes that an event that was posted has become more urgent.
    #[inline]
    pub fn hasten(&mut self, urgency: Urgency) {
        self.due = self.due.and(urgency);
    }

    /// Returns how soon an interrupt is due, if there is one, and disarms the queue: it is
    /// armed, with events that the driver has not consumed, or it was raised for them
    /// later than they are due now.
    #[must_use]
    pub fn take_interrupt(&mut self) -> Option<Urgency> {
        if self.position.pending() == 0 {
            return None;
        }
        let urgency = match self.raised {
            _ if self.is_armed => self.due,
            Some(raised) => self.due.beyond(raised)?,
            None => return None,
        };
        self.is_armed = false;
        self.raised = Some(self.raised.map_or(self.due, |raised| raised.and(self.due)));
        Some(urgency)
    }

    /// Moves the queue to another vector. An interrupt that still waits to be raised comes
    /// on that one.
    pub fn move_to(&mut self, vector: u16) {
        self.vector = vector;
        if self
            .raised
            .take()
            .is_some_and(|raised| raised.within.is_some())
        {
            self.is_armed = true;
        }
    }

    /// Arms the queue after a failure, in which an interrupt may have been lost.
    pub fn arm_again(&mut self) {
        self.is_armed = true;
        self.due = Urgency::PLAIN;
        self.raised = None;
    }
}
