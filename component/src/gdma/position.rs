//! The arithmetic of rings that a driver consumes.

use device_kit::Platform;
use device_kit::envelope::{RestoreError, ensure};
use device_kit::ring::Ring;
use mana_wire::queue::OWNER_BITS;

use crate::state as saved;

/// How far a ring of entries is posted and consumed.
///
/// Counts run modulo the number of entries times 8: the owner bits of an
/// entry are the lap it was posted in, so 8 laps tell a new entry from an old
/// one, and doorbells carry the same count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Entries, a power of two.
    pub(super) entries: u32,
    /// Posted so far, from the first lap, which has owner 1.
    head: u32,
    /// Consumed so far, as the driver last said or as follows from what it did.
    tail: u32,
    /// How many entries fit for certain.
    pub(super) room: u32,
}

impl Position {
    /// A new ring: the driver sees owner 0 in its zeroed memory, so the first
    /// lap is 1 (`INITIALIZED_OWNER_BIT`).
    pub fn new(entries: u32) -> Self {
        Self {
            entries,
            head: entries,
            tail: entries,
            room: entries,
        }
    }

    pub(super) fn mask(self) -> u32 {
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

    /// Whether the next entry could replace one that the driver has not
    /// consumed.
    #[inline]
    pub fn full(self) -> bool {
        self.room == 0
    }

    /// Counts an entry.
    #[inline]
    pub fn advance(&mut self) {
        self.head = (self.head + 1) & self.mask();
        self.room = self.room.saturating_sub(1);
    }

    /// Counts so many entries, at most as many as fit.
    #[inline]
    pub(super) fn advance_by(&mut self, count: u32) {
        self.head = self.head.wrapping_add(count) & self.mask();
        self.room = self.room.saturating_sub(count);
    }

    /// Notes that the driver announced work, which it does only if what it has
    /// outstanding fits into the ring, so that a whole lap of entries may come.
    pub fn work_announced(&mut self) {
        self.room = self.entries;
        // Eight laps of silence would look like none.
        self.bound_silence(self.mask() / 2);
    }

    /// Takes all but the last lap as consumed if the driver has been silent about
    /// more than `most` entries. More than a lap is never outstanding.
    pub(super) fn bound_silence(&mut self, most: u32) {
        if self.pending() > most {
            self.tail = self.head.wrapping_sub(self.entries) & self.mask();
        }
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
        self.room = self.room.max(self.known_room());
        true
    }

    /// How many entries fit behind what the driver has not said it consumed.
    pub(super) fn known_room(self) -> u32 {
        self.entries.saturating_sub(self.pending())
    }

    /// Number of entries.
    pub fn entries(self) -> u32 {
        self.entries
    }

    /// A ring that was saved.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`] if its counts can't be.
    pub fn restore(entries: u32, saved: &saved::Ring) -> Result<Self, RestoreError> {
        let mut position = Self {
            entries,
            head: saved.head,
            tail: saved.tail,
            room: 0,
        };
        let possible = saved.head.max(saved.tail) <= position.mask();
        ensure(possible, "a ring's position beyond its last lap")?;
        position.room = position.known_room();
        Ok(position)
    }

    /// The lap and place at which the next entry goes, and what the driver
    /// said last, as they were found after a failure.
    pub fn recovered(entries: u32, head: u32, tail: u32) -> Self {
        let mut position = Self {
            entries,
            head,
            tail,
            room: 0,
        };
        position.head &= position.mask();
        // A tail that makes no sense is one that was ignored.
        if tail > position.mask() {
            position.tail = position.head;
        }
        position.room = position.known_room();
        position
    }

    /// Posted and consumed counts.
    pub fn counts(self) -> (u32, u32) {
        (self.head, self.tail)
    }
}

/// Finds the place of the next entry in what a predecessor left in a ring:
/// the owner bits change there, and say which lap it is. None if the ring is
/// not guest memory any more.
pub fn find_head(ring: &Ring, platform: &mut impl Platform, entry_size: u32) -> Option<u32> {
    let entries = ring.size() / entry_size;
    let mut owner = |index: u32| {
        let mut last = [0];
        let at = index * entry_size + entry_size - 8;
        ring.read(platform, at, &mut last).ok()?;
        Some((last[0] >> (64 - OWNER_BITS)) as u32)
    };
    let lap = owner(0)?;
    for index in 1..entries {
        if owner(index)? != lap {
            return Some(lap * entries + index);
        }
    }
    Some((lap + 1) * entries)
}
