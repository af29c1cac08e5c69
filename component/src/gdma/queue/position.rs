//! How far a ring is posted and consumed: the producer and the consumer of its
//! entries.

use device_kit::Platform;
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
    entries: u32,
    /// Posted so far, from the first lap, which has owner 1.
    producer: u32,
    /// Consumed so far, as the driver last said or as follows from what it did.
    consumer: u32,
    /// Entries that fit for certain.
    room: u32,
}

impl Position {
    /// Creates the position of a new ring: the driver sees owner 0 in its zeroed memory, so the first
    /// lap is 1 (`INITIALIZED_OWNER_BIT`).
    pub fn new(entries: u32) -> Self {
        Self {
            entries,
            producer: entries,
            consumer: entries,
            room: entries,
        }
    }

    fn mask(self) -> u32 {
        (self.entries << OWNER_BITS) - 1
    }

    /// Returns where the next entry goes.
    #[inline]
    pub fn index(self) -> u32 {
        self.producer & (self.entries - 1)
    }

    /// Returns the owner bits of the next entry.
    #[inline]
    pub fn owner(self) -> u8 {
        // A division, as the number of entries is a power of two.
        (self.producer >> self.entries.trailing_zeros()) as u8
    }

    /// Returns how many entries the driver has not said it consumed.
    #[inline]
    pub fn pending(self) -> u32 {
        self.producer.wrapping_sub(self.consumer) & self.mask()
    }

    /// Returns whether the next entry could replace one that the driver has not
    /// consumed.
    #[inline]
    pub fn is_full(self) -> bool {
        self.room == 0
    }

    /// Counts entries that were posted, at most [`room`](Self::room).
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.producer = self.producer.wrapping_add(count) & self.mask();
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
    fn bound_silence(&mut self, most: u32) {
        if self.pending() > most {
            self.consumer = self.producer.wrapping_sub(self.entries) & self.mask();
        }
    }

    /// Notes that the driver consumed up to `consumer`. Returns false, and changes
    /// nothing, if that is behind what it said before or beyond what was posted.
    #[must_use]
    pub fn consume_to(&mut self, consumer: u32) -> bool {
        let left = self.producer.wrapping_sub(consumer) & self.mask();
        if consumer > self.mask() || left > self.pending() {
            return false;
        }
        self.consumer = consumer;
        self.room = self.room.max(self.known_room());
        true
    }

    /// Returns how many entries fit behind those that the driver has not said it
    /// consumed.
    pub fn known_room(self) -> u32 {
        self.entries.saturating_sub(self.pending())
    }

    /// Returns how many entries fit for certain.
    #[inline]
    pub fn room(self) -> u32 {
        self.room
    }

    /// Returns the number of entries.
    pub fn entries(self) -> u32 {
        self.entries
    }

    /// Continues from counts that were saved and checked. `room` is how many
    /// entries fit for certain, if the driver may consume without saying so.
    pub fn resume(entries: u32, saved: &saved::Ring, room: Option<u32>) -> Self {
        let mut position = Self {
            entries,
            producer: saved.producer,
            consumer: saved.consumer,
            room: 0,
        };
        match room {
            None => position.room = position.known_room(),
            Some(room) => {
                position.room = room;
                position.bound_silence(position.mask() - entries);
            }
        }
        position
    }

    /// Continues from the producer that was found in a ring after a failure, and
    /// from the consumer that the driver said last. A consumer that can't be is one that
    /// was ignored.
    pub fn recover(self, producer: u32, consumer: u32) -> Self {
        let mut position = Self {
            producer: producer & self.mask(),
            consumer,
            ..self
        };
        if consumer > position.mask() {
            position.consumer = position.producer;
        }
        position.room = position.known_room();
        position
    }

    /// Returns the posted and the consumed count.
    pub fn counts(self) -> (u32, u32) {
        (self.producer, self.consumer)
    }
}

/// Finds the producer in what a predecessor left in a ring: the owner bits change
/// there, and say which lap it is. None if the ring is not guest memory any
/// more.
pub fn find_producer(
    ring: &mut Ring,
    platform: &mut impl Platform,
    entry_size: u32,
) -> Option<u32> {
    let entries = ring.size() / entry_size;
    let mut owner = |index: u32| {
        let mut last = [0];
        let at = index * entry_size + entry_size - 8;
        let view = ring.view(platform, at, 8).ok()?;
        view.copy_to(&mut last)
            .then_some((last[0] >> (64 - OWNER_BITS)) as u32)
    };
    let lap = owner(0)?;
    for index in 1..entries {
        if owner(index)? != lap {
            return Some(lap * entries + index);
        }
    }
    Some((lap + 1) * entries)
}
