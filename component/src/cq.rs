//! Completion queues, and the arithmetic of rings that a driver consumes.

use alloc::vec;
use alloc::vec::Vec;

use crate::platform::{FaultCounter, Level, Platform};
use crate::ring::Ring;
use crate::wire::queue::{CQE_SIZE, CqeInfo, OWNER_BITS};

/// How far a ring of entries is posted and consumed.
///
/// Counts run modulo the number of entries times 8: the owner bits of an
/// entry are the lap it was posted in, so 8 laps tell a new entry from an old
/// one, and doorbells carry the same count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Entries, a power of two.
    entries: u32,
    /// Posted so far, from the first lap, which has owner 1.
    head: u32,
    /// Consumed so far, as the driver last said.
    tail: u32,
}

impl Position {
    /// A new ring: the driver sees owner 0 in its zeroed memory, so the first
    /// lap is 1 (`INITIALIZED_OWNER_BIT`).
    pub fn new(entries: u32) -> Self {
        Self {
            entries,
            head: entries,
            tail: entries,
        }
    }

    fn mask(self) -> u32 {
        (self.entries << OWNER_BITS) - 1
    }

    /// Where the next entry goes.
    #[inline]
    pub fn index(self) -> u32 {
        self.head & (self.entries - 1)
    }

    /// The owner bits of the next entry.
    #[inline]
    pub fn owner(self) -> u8 {
        // A division, as the number of entries is a power of two.
        (self.head >> self.entries.trailing_zeros()) as u8
    }

    /// Entries that the driver has not said it consumed.
    #[inline]
    pub fn pending(self) -> u32 {
        self.head.wrapping_sub(self.tail) & self.mask()
    }

    /// Whether the driver has not said that it consumed the entry that the
    /// next one would replace.
    #[inline]
    pub fn full(self) -> bool {
        self.pending() >= self.entries
    }

    /// Whether one more lap without a word from the driver would make old
    /// entries look new.
    #[inline]
    pub fn exhausted(self) -> bool {
        self.pending() >= self.mask() - self.entries
    }

    /// Counts an entry.
    #[inline]
    pub fn advance(&mut self) {
        self.head = (self.head + 1) & self.mask();
    }

    /// The driver consumed up to `tail`. False, and no change, if that is
    /// behind what it said before or beyond what was posted.
    #[must_use]
    pub fn consume_to(&mut self, tail: u32) -> bool {
        let left = self.head.wrapping_sub(tail) & self.mask();
        if tail > self.mask() || left > self.pending() {
            return false;
        }
        self.tail = tail;
        true
    }

    /// Number of entries.
    pub fn entries(self) -> u32 {
        self.entries
    }

    /// Posted and consumed counts, for people.
    pub fn counts(self) -> (u32, u32) {
        (self.head, self.tail)
    }
}

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    /// Its memory.
    pub ring: Ring,
    /// The event queue that says when there are completions.
    pub eq: Option<u32>,
    /// The driver wants an event for the next completion.
    pub armed: bool,
    /// Completions since the last look at [`armed`](Self::armed).
    pub dirty: bool,
    /// Completions posted and consumed.
    pub position: Position,
    /// For each entry, where the work queue entry ended that it completed: a
    /// work queue entry whose place the driver used again was seen completed,
    /// even if no doorbell of this queue said so.
    completed: Vec<u32>,
    /// Completions that found no room, or no memory.
    pub lost: FaultCounter,
    /// Doorbells that made no sense.
    pub bad_doorbells: FaultCounter,
}

/// The work queue entry that a completion is for.
#[derive(Clone, Copy, Debug)]
pub struct Completes {
    /// Queue id.
    pub wq: u32,
    /// From a send queue.
    pub is_sq: bool,
    /// Byte position behind the entry, modulo 2^32.
    pub end: u32,
    /// The oldest position whose memory the driver may still be using:
    /// what it posted last less the size of its queue.
    pub reused_below: u32,
}

impl Cq {
    /// A new completion queue, armed, as drivers expect it.
    pub fn new(ring: Ring, eq: Option<u32>) -> Self {
        let position = Position::new(ring.size() / CQE_SIZE);
        let completed = vec![0; position.entries() as usize];
        Self {
            ring,
            eq,
            armed: true,
            dirty: false,
            position,
            completed,
            lost: FaultCounter::default(),
            bad_doorbells: FaultCounter::default(),
        }
    }

    /// Posts a completion: 60 bytes as seven words and a half. False if the
    /// driver has not consumed the entry it would replace; that entry is left
    /// alone, and the completion is lost and counted.
    #[inline]
    pub fn post(
        &mut self,
        platform: &mut impl Platform,
        words: &[u64; 7],
        rest: u32,
        completes: Completes,
    ) -> bool {
        let index = self.position.index();
        if self.position.full() && !self.seen(index, completes.reused_below) {
            self.note_overrun(platform, completes.wq);
            return false;
        }
        let info = CqeInfo::new()
            .with_wq_num(completes.wq)
            .with_is_sq(completes.is_sq)
            .with_owner(self.position.owner());
        let last = u64::from(rest) | u64::from(info.into_bits()) << 32;
        if self
            .ring
            .publish(platform, index * CQE_SIZE, words, last)
            .is_err()
        {
            self.lost.hit();
        }
        self.completed[index as usize] = completes.end;
        self.position.advance();
        self.dirty = true;
        true
    }

    #[cold]
    fn note_overrun(&mut self, platform: &mut impl Platform, wq: u32) {
        if self.lost.hit() {
            platform.log(
                Level::Warn,
                format_args!(
                    "completion queue of {} entries overrun by queue {wq}: the driver consumes too slowly",
                    self.position.entries(),
                ),
            );
        }
    }

    /// Whether the driver consumed the entry at `index` for sure, although
    /// its doorbells did not say so: it has used the memory of the work queue
    /// entry again. Drivers may stay silent for some laps while they poll
    /// (`mana_cq_handler`), but not so long that owner bits repeat.
    fn seen(&self, index: u32, reused_below: u32) -> bool {
        let ahead = reused_below.wrapping_sub(self.completed[index as usize]);
        !self.position.exhausted() && ahead < 1 << 31
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

    /// Whether an event is due: armed, with completions that the driver has
    /// not consumed.
    pub fn event_due(&self) -> bool {
        self.armed && self.position.pending() > 0
    }
}
