//! The producer and the consumer of a ring of CQEs or events.

use device_kit::Platform;
use device_kit::ring::Ring;
use mana_wire::queue::OWNER_BITS;

use crate::state as saved;

/// The producer and the consumer of a ring.
///
/// They count modulo the number of entries times 8: the owner bits of an entry are its
/// lap modulo 8, which distinguishes new entries from old ones, and doorbells carry the
/// same count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number of entries, a power of two.
    entries: u32,
    /// Entries posted. Begins in the first lap, which has owner 1.
    producer: u32,
    /// Entries consumed, as the driver last reported or as follows from what it did.
    consumer: u32,
    /// How many entries certainly fit.
    room: u32,
}

impl Position {
    /// Creates the position of a new ring: its zeroed memory has owner 0, so the first lap is 1
    /// (`INITIALIZED_OWNER_BIT`).
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
        // Divides by the number of entries, a power of two.
        (self.producer >> self.entries.trailing_zeros()) as u8
    }

    /// Returns how many entries the driver has not reported as consumed.
    #[inline]
    pub fn pending(self) -> u32 {
        self.producer.wrapping_sub(self.consumer) & self.mask()
    }

    /// Returns whether the next entry could overwrite one that the driver has not
    /// consumed.
    #[inline]
    pub fn is_full(self) -> bool {
        self.room == 0
    }

    /// Counts posted entries, up to [`room`](Self::room) of them.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.producer = self.producer.wrapping_add(count) & self.mask();
        self.room = self.room.saturating_sub(count);
    }

    /// Notes that the driver announced work. It does so only if all outstanding work
    /// fits into the ring, so a whole lap of entries fits.
    pub fn work_announced(&mut self) {
        self.room = self.entries;
        // After eight laps without a doorbell, the counts would look like none.
        self.bound_silence(self.mask() / 2);
    }

    /// Treats all but the last lap as consumed if the driver has not reported more than
    /// `most` entries. More than a lap is never outstanding.
    fn bound_silence(&mut self, most: u32) {
        if self.pending() > most {
            self.consumer = self.producer.wrapping_sub(self.entries) & self.mask();
        }
    }

    /// Notes that the driver has consumed up to `consumer`. Returns false, and changes
    /// nothing, if that is before the current consumer or beyond the producer.
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

    /// Returns how many entries fit, going by what the driver has reported as consumed.
    pub fn known_room(self) -> u32 {
        self.entries.saturating_sub(self.pending())
    }

    /// Returns how many entries certainly fit.
    #[inline]
    pub fn room(self) -> u32 {
        self.room
    }

    /// Returns the number of entries.
    pub fn entries(self) -> u32 {
        self.entries
    }

    /// Continues from counts that were saved and checked. `room` is how many entries
    /// certainly fit, if the driver may consume without reporting it.
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

    /// Continues from the producer that was found in a ring after a failure, and from
    /// the consumer that the driver last reported. An impossible consumer is ignored, as
    /// it was before the failure.
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

/// Finds the producer in the ring that a predecessor left: the owner bits change there,
/// and identify the lap. Returns None if the ring is no longer guest memory.
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
