//! Completion queues.
//!
//! # When a CQE may be overwritten
//!
//! A driver reports how far it has consumed by a doorbell of the completion queue, but
//! rarely: hardware requires one in eight laps, as many as owner bits distinguish, and
//! Linux polls for four without one (`mana_cq_handler`; its commit dabffd08545f, "net:
//! mana: Ring doorbell at 4 CQ wraparounds"). How much it has consumed meanwhile
//! follows from another rule, which drivers obey because hardware does not wait either:
//! a driver never has more work outstanding than its completion queue has room for. So
//! when it announces work by a doorbell of the work queue, a whole lap of completions
//! fits ([`Position::work_announced`](super::position::Position::work_announced)).
//!
//! More completions than that without a doorbell of either queue are certainly an
//! overrun: those that find no room are dropped, counted and logged, and no unread CQE
//! is overwritten. If a driver violates the rule in steps that each look valid, its
//! queue overflows, as on hardware.
//!
//! # Arming
//!
//! A doorbell with the arm bit asks for one event. A doorbell without it reports only
//! how far the driver has consumed, and does not disarm: Linux rings without the bit
//! only while it polls, after the event it asked for (`mana_cq_handler`), and may do so
//! on one processor right after another one armed the queue. Disarming could lose the
//! event that the other processor waits for; staying armed costs at most a spurious
//! event.

use alloc::vec;
use alloc::vec::Vec;

use device_kit::FaultCounter;
use device_kit::platform::{Level, Platform};
use device_kit::ring::Ring;
use mana_wire::queue::{CQE_SIZE, CqeInfo, DimDoorbell, WQE_UNIT};

use super::moderation::{Moderation, Urgency};
use super::position::Position;
use crate::gdma::ids::{EqId, WqId};
use crate::gdma::journal::{self, Record};
use crate::state as saved;

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    /// Its memory.
    pub ring: Ring,
    /// The event queue that reports completions.
    pub eq: Option<EqId>,
    /// Whether the driver wants an event for the next completion.
    pub is_armed: bool,
    /// Whether there are completions since [`is_armed`](Self::is_armed) was last
    /// evaluated.
    pub is_dirty: bool,
    /// Whether a work queue of the hardware channel or the NIC reports here.
    pub is_used: bool,
    /// The moderation that its driver set, if it did.
    pub moderation: Option<Moderation>,
    /// The doorbells of its event queue ([`Eq::rung`](super::eq::Eq::rung)) when an event
    /// was posted for it whose interrupt may wait.
    held_at: Option<u32>,
    /// Completions posted and consumed.
    pub position: Position,
    /// For each slot, the end position of the WQE that its CQE completed. A driver that
    /// reuses the memory of a WQE has seen its CQE, even without a doorbell of this
    /// queue.
    completed: Vec<u32>,
    /// Completions that were lost for lack of room or memory.
    pub lost: FaultCounter,
    /// Doorbells that were not valid.
    pub bad_doorbells: FaultCounter,
}

/// A completion without the fields that the queue fills in.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// Its first 56 bytes. The record replaces a part of word [`journal::WORD`].
    pub words: [u64; 7],
    /// The 4 bytes before its information word.
    pub rest: u32,
    /// What a successor learns of the WQE.
    pub record: Record,
}

impl Cq {
    /// Creates a completion queue, armed, as drivers expect it.
    pub fn new(ring: Ring, eq: Option<EqId>) -> Self {
        let position = Position::new(ring.size() / CQE_SIZE);
        let completed = vec![0; position.entries() as usize];
        Self {
            ring,
            eq,
            is_armed: true,
            is_dirty: false,
            is_used: false,
            moderation: None,
            held_at: None,
            position,
            completed,
            lost: FaultCounter::default(),
            bad_doorbells: FaultCounter::default(),
        }
    }

    /// Continues a completion queue that was saved and checked, over its memory.
    pub fn resume(ring: Ring, saved: &saved::Cq) -> Self {
        let entries = ring.size() / CQE_SIZE;
        let room = saved.room.unwrap_or(entries);
        let position = Position::resume(entries, &saved.ring, Some(room));
        let mut cq = Self {
            is_armed: saved.ring.is_armed,
            position,
            lost: FaultCounter::from_count(saved.ring.lost),
            bad_doorbells: FaultCounter::from_count(saved.ring.bad_doorbells),
            moderation: saved
                .moderation
                .map(|(completions, usec)| Moderation { completions, usec }),
            held_at: saved.is_held.and_then(|is_held| is_held.then_some(0)),
            ..Self::new(ring, saved.eq.map(EqId))
        };
        let known = position.pending().min(entries);
        let runs = saved.completed.iter();
        let distances = runs.flat_map(|(distance, count)| (0..*count).map(move |_| *distance));
        let mut end = 0u32;
        for (distance, back) in distances.zip((1..=known).rev()) {
            end = end.wrapping_add(distance.cast_unsigned().wrapping_mul(WQE_UNIT));
            cq.note_completed(back, end);
        }
        cq
    }

    /// Returns the queue to be saved. `rung` counts the doorbells of its event queue.
    pub fn save(&self, id: u32, rung: u32) -> saved::Cq {
        let (entries, room) = (self.position.entries(), self.position.room());
        saved::Cq {
            id,
            completed: self.save_completed(),
            ring: saved::Ring {
                lost: self.lost.count(),
                bad_doorbells: self.bad_doorbells.count(),
                ..saved::Ring::of(&self.ring, self.position.counts(), self.is_armed)
            },
            eq: self.eq.map(|eq| eq.0),
            room: (room != entries).then_some(room),
            moderation: self.moderation.map(|it| (it.completions, it.usec)),
            is_held: self.is_held(rung).then_some(true),
        }
    }

    fn save_completed(&self) -> Vec<(i32, u32)> {
        let known = self.position.pending().min(self.position.entries());
        let mut runs: Vec<(i32, u32)> = Vec::new();
        let mut before = 0u32;
        for back in (1..=known).rev() {
            let end = self.completed[self.index_back(back)];
            let distance = end.wrapping_sub(before).cast_signed() / WQE_UNIT.cast_signed();
            before = end;
            match runs.last_mut() {
                Some((same, count)) if *same == distance => *count += 1,
                _ => runs.push((distance, 1)),
            }
        }
        runs
    }

    /// Notes the end position of the WQE that was completed by the CQE `back` before
    /// the next one.
    pub fn note_completed(&mut self, back: u32, end: u32) {
        let index = self.index_back(back);
        self.completed[index] = end;
    }

    /// Returns the slot of the CQE `back` before the next one.
    pub fn index_back(&self, back: u32) -> usize {
        let (producer, _) = self.position.counts();
        (producer.wrapping_sub(back) & (self.position.entries() - 1)) as usize
    }

    /// Posts completions of a work queue in order, one for each of `items`. Those that
    /// find no room are dropped and counted, and the CQEs that they would overwrite
    /// stay.
    #[inline(always)]
    pub fn post<T>(
        &mut self,
        platform: &mut impl Platform,
        wq: WqId,
        items: &[T],
        completion: impl Fn(&T) -> Completion + Copy,
    ) {
        let mut left = items;
        while !left.is_empty() {
            let room = self.position.room() as usize;
            if room == 0 {
                return self.lose(platform, wq, left.len());
            }
            let until_end = self.completed.len() - self.position.index() as usize;
            let count = left.len().min(room).min(until_end);
            let (now, later) = left.split_at(count);
            self.post_stretch(platform, wq, now, completion);
            left = later;
        }
    }

    /// Posts completions for which there is room, up to the end of the ring.
    #[inline(always)]
    fn post_stretch<T>(
        &mut self,
        platform: &mut impl Platform,
        wq: WqId,
        items: &[T],
        completion: impl Fn(&T) -> Completion,
    ) {
        let position = self.position;
        let info = CqeInfo::of(wq.number(), wq.is_sq(), position.owner()).into_bits();
        let info = u64::from(info) << 32;
        let completed = &mut self.completed[position.index() as usize..];
        let entries = completed.iter_mut().zip(items).map(|(completed, item)| {
            let Completion {
                mut words,
                rest,
                record,
            } = completion(item);
            words[journal::WORD] |= record.into_word();
            *completed = record.end;
            (words, u64::from(rest) | info)
        });
        let at = position.index() * CQE_SIZE;
        let failed = self.ring.publish(platform, at, items.len(), entries);
        for _ in 0..failed {
            self.lost.hit();
        }
        self.position.advance(items.len() as u32);
        self.is_dirty = true;
    }

    /// Counts completions that found no room.
    #[cold]
    fn lose(&mut self, platform: &mut impl Platform, wq: WqId, count: usize) {
        for _ in 0..count {
            if self.lost.hit() {
                let entries = self.position.entries();
                platform.log(
                    Level::Warn,
                    format_args!(
                        "completion queue of {entries} entries overrun by {wq}: the driver has more work outstanding than fits"
                    ),
                );
            }
        }
    }

    /// Returns whether the driver has certainly consumed the CQE that the next one
    /// overwrites, whatever work is outstanding: a doorbell said so, or the memory of
    /// its WQE was reused. `reused_below` is the oldest position whose memory may still
    /// be in use.
    pub fn has_spare(&self, reused_below: u32) -> bool {
        let completed = self.completed[self.position.index() as usize];
        let ahead = reused_below.wrapping_sub(completed);
        self.position.known_room() > 0 || ahead < 1 << 31
    }

    /// Handles a doorbell. Returns false if it is invalid and was ignored.
    #[must_use]
    pub fn ring_doorbell(&mut self, consumer: u32, arm: bool) -> bool {
        if !self.position.consume_to(consumer) {
            self.bad_doorbells.hit();
            return false;
        }
        self.is_armed |= arm;
        true
    }

    /// Returns whether an event is due: the queue is armed, and has completions that
    /// the driver has not consumed.
    pub fn is_event_due(&self) -> bool {
        self.is_armed && self.position.pending() > 0
    }

    /// Sets the limits of its moderation that a doorbell has. One that has neither changes
    /// nothing.
    pub fn moderate(&mut self, bell: DimDoorbell) {
        if bell.is_usec_valid() || bell.are_completions_valid() {
            self.moderation = Some(self.moderation.unwrap_or_default().after(bell));
        }
    }

    /// Returns how soon the driver is to have an interrupt for its completions.
    #[inline]
    pub fn urgency(&self) -> Urgency {
        match self.moderation {
            None => Urgency::PLAIN,
            Some(moderation) => Urgency::within(moderation.wait(self.position.pending())),
        }
    }

    /// Notes that its event was posted when its event queue's doorbell had been rung this
    /// often.
    #[inline]
    pub fn reported(&mut self, rung: u32) {
        self.is_armed = false;
        self.held_at = self.moderation.map(|_| rung);
    }

    /// Returns whether the interrupt for its event may still wait: its event queue's
    /// doorbell has not been rung since.
    #[inline]
    pub fn is_held(&self, rung: u32) -> bool {
        self.held_at == Some(rung)
    }

    /// Arms the queue after a failure, in which an interrupt may have been lost.
    pub fn arm_again(&mut self) {
        self.is_armed = true;
        self.held_at = None;
    }
}
