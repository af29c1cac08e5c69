//! Event queues: where the device tells the driver what happened, and the
//! source of its interrupts.
//!
//! A doorbell without the arm bit says how far the driver consumed and does not
//! disarm the queue, as for [completion queues](crate::gdma::cq). Linux rings with the
//! bit always (`mana_gd_process_eq_events`); OpenVMM's driver rings without it
//! once the interrupt that it had asked for has come.

use crate::state::{self as saved, Pages};
use device_kit::FaultCounter;
use device_kit::envelope::RestoreError;
use device_kit::platform::Platform;
use device_kit::ring::Ring;
use mana_wire::queue::{EQE_SIZE, EqeInfo};

use crate::gdma::position::{Position, find_head};

/// An event queue.
#[derive(Debug)]
pub struct Eq {
    /// Its memory.
    pub ring: Ring,
    /// MSI-X vector that it raises.
    pub vector: u16,
    /// The driver wants an interrupt for the next event.
    pub armed: bool,
    /// Events posted and consumed.
    pub position: Position,
    /// Events that found no room, or no memory.
    pub lost: FaultCounter,
    /// Doorbells that made no sense.
    pub bad_doorbells: FaultCounter,
}

/// An event did not fit: the driver has not consumed enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

impl Eq {
    /// A new event queue, armed, as drivers expect it.
    pub fn new(ring: Ring, vector: u16) -> Self {
        let position = Position::new(ring.size() / EQE_SIZE);
        Self {
            ring,
            vector,
            armed: true,
            position,
            lost: FaultCounter::default(),
            bad_doorbells: FaultCounter::default(),
        }
    }

    /// An event queue that was saved, over its memory.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`].
    pub fn restore(ring: Ring, saved: &saved::Eq) -> Result<Self, (Ring, RestoreError)> {
        match Position::restore(ring.size() / EQE_SIZE, &saved.ring) {
            Ok(position) => Ok(Self {
                armed: saved.ring.armed,
                position,
                lost: FaultCounter::from_count(saved.ring.lost),
                bad_doorbells: FaultCounter::from_count(saved.ring.bad_doorbells),
                ..Self::new(ring, saved.vector)
            }),
            Err(error) => Err((ring, error)),
        }
    }

    /// The queue, to be saved.
    pub fn save(&self, id: u32) -> saved::Eq {
        let (head, tail) = self.position.counts();
        saved::Eq {
            id,
            ring: saved::Ring {
                pages: Pages::from_addresses(self.ring.pages()),
                head,
                tail,
                armed: self.armed,
                lost: self.lost.count(),
                bad_doorbells: self.bad_doorbells.count(),
            },
            vector: self.vector,
        }
    }

    /// Goes on behind what a predecessor left in the ring; `tail` is as for
    /// [`Cq::recover`](super::cq::Cq::recover).
    pub fn recover(&mut self, platform: &mut impl Platform, tail: Option<u32>) {
        if let Some(head) = find_head(&self.ring, platform, EQE_SIZE) {
            let (_, saved) = self.position.counts();
            let entries = self.position.entries();
            let mut position = Position::recovered(entries, head, tail.unwrap_or(saved));
            // No event replaces one that is not consumed, so more than fit can't
            // be pending: that tail is one that was ignored.
            if position.pending() > entries {
                position = Position::recovered(entries, head, head);
            }
            self.position = position;
            self.armed = true;
        }
    }

    /// Posts an event.
    ///
    /// # Errors
    ///
    /// [`Overrun`] if the driver has not consumed the entry it would replace;
    /// that entry is left alone.
    pub fn post(
        &mut self,
        platform: &mut impl Platform,
        event_type: u8,
        details: [u32; 3],
    ) -> Result<(), Overrun> {
        if self.position.full() {
            return Err(Overrun);
        }
        let info = EqeInfo::new()
            .with_event_type(event_type)
            .with_owner(self.position.owner());
        let first = u64::from(details[0]) | u64::from(details[1]) << 32;
        let last = u64::from(details[2]) | u64::from(info.into_bits()) << 32;
        let at = self.position.index() * EQE_SIZE;
        if self.ring.publish(platform, at, &[first], last).is_err() && self.lost.hit() {
            platform.log(
                device_kit::platform::Level::Warn,
                format_args!("an event was lost: its queue is no longer in guest memory"),
            );
        }
        self.position.advance();
        Ok(())
    }

    /// Takes a doorbell. False if it makes no sense and was ignored.
    #[must_use]
    pub fn ring_doorbell(&mut self, tail: u32, arm: bool) -> bool {
        if !self.position.consume_to(tail) {
            self.bad_doorbells.hit();
            return false;
        }
        self.armed |= arm;
        true
    }

    /// Whether an interrupt is due: armed, with events that the driver has
    /// not consumed. Disarms.
    #[must_use]
    pub fn take_interrupt(&mut self) -> bool {
        let due = self.armed && self.position.pending() > 0;
        self.armed &= !due;
        due
    }
}
