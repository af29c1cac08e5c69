//! Room for what is handed to the host in one call; kept between calls.

use alloc::boxed::Box;
use alloc::vec;

use super::tx::InFlight;
use crate::gdma::wq::Entry;
use device_kit::platform::{Offloads, RxBuffer, Segment, TxPacket};
use mana_wire::queue::{MAX_SQE_SIZE, WQE_UNIT};

/// Packets handed over in one call.
pub const PACKETS: usize = 64;
/// Buffers handed over in one call.
pub const BUFFERS: usize = 256;
/// The most segments of an entry: all of it but header and OOB.
pub const MOST_SEGMENTS: usize = (MAX_SQE_SIZE as usize - WQE_UNIT as usize / 2) / 16;
/// Segments of as many packets as can be.
const SEGMENTS: usize = PACKETS * MOST_SEGMENTS;

/// What is on its way to the host.
#[derive(Debug, Default)]
pub struct Batch {
    /// The entry that is looked at.
    pub entry: Entry,
    /// Packets to transmit.
    pub packets: List<TxPacket>,
    /// Buffers to receive into.
    pub buffers: List<RxBuffer>,
    /// Of either, in order.
    pub segments: List<Segment>,
    /// The transmits of the batch, in order, but for the plain ones at its end.
    pub sent: List<InFlight>,
    /// How many packets at the end of `packets` are plain: of an entry of one
    /// unit, with one segment, and with a completion in any case. There is
    /// nothing to remember of them that the lists don't say.
    plain: usize,
    /// The bytes of those.
    plain_bytes: u64,
}

impl Batch {
    /// Begins with nothing in it. The first time takes memory, which a device
    /// that never does so need not have.
    pub fn begin(&mut self) {
        let segment = Segment {
            address: 0,
            length: 0,
        };
        let buffer = RxBuffer { id: 0, segments: 0 };
        let packet = TxPacket::plain(0, 0, Offloads::empty());
        self.packets.begin(packet, PACKETS);
        self.sent.begin(InFlight::default(), PACKETS);
        self.buffers.begin(buffer, BUFFERS);
        self.segments.begin(segment, SEGMENTS);
        (self.plain, self.plain_bytes) = (0, 0);
    }

    /// So many plain packets of together so many bytes, with a segment each, were
    /// written to the lists' spare room.
    #[inline]
    pub fn add_plain(&mut self, count: usize, bytes: u64) {
        self.packets.add(count);
        self.segments.add(count);
        self.plain += count;
        self.plain_bytes += bytes;
    }

    /// How many entries were taken from the send queue.
    #[inline]
    pub fn taken(&self) -> usize {
        self.sent.len() + self.plain
    }

    /// The packets, their segments and bytes, if all entries taken are plain
    /// packets.
    #[inline]
    pub fn all_plain(&self) -> Option<(&[TxPacket], &[Segment], u64)> {
        let lists = (self.packets.as_slice(), self.segments.as_slice());
        (self.sent.len() == 0).then_some((lists.0, lists.1, self.plain_bytes))
    }

    /// Has all of the transmits in `sent`, so that others can follow.
    pub fn remember_plain(&mut self) {
        let (packets, segments) = (self.packets.as_slice(), self.segments.as_slice());
        let packets = &packets[packets.len() - self.plain..];
        let segments = &segments[segments.len() - self.plain..];
        for (packet, segment) in packets.iter().zip(segments) {
            // There is room for as many as are taken at most.
            let _ = self.sent.push(InFlight {
                position: packet.id.wrapping_sub(WQE_UNIT),
                end: packet.id,
                length: segment.length,
                suppress: false,
                outcome: None,
            });
        }
        (self.plain, self.plain_bytes) = (0, 0);
    }

    /// Whether the segments of any one entry still fit.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.segments.room() >= MOST_SEGMENTS
    }
}

/// A list with fixed room, so that adding something is a store.
#[derive(Debug)]
pub struct List<T> {
    all: Box<[T]>,
    used: usize,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            all: Box::default(),
            used: 0,
        }
    }
}

impl<T: Clone> List<T> {
    fn begin(&mut self, nothing: T, room: usize) {
        if self.all.is_empty() {
            self.all = vec![nothing; room].into_boxed_slice();
        }
        self.used = 0;
    }
}

impl<T> List<T> {
    /// Adds one. False if there is no room.
    #[inline]
    #[must_use]
    pub fn push(&mut self, value: T) -> bool {
        let Some(slot) = self.all.get_mut(self.used) else {
            return false;
        };
        *slot = value;
        self.used += 1;
        true
    }

    /// Takes back all but the first `length`.
    #[inline]
    pub fn truncate(&mut self, length: usize) {
        self.used = self.used.min(length);
    }

    /// How many more fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.all.len() - self.used
    }

    /// The room, to be written from the front on; then say how much was.
    #[inline]
    pub fn spare(&mut self) -> &mut [T] {
        &mut self.all[self.used..]
    }

    /// So many were written to [`spare`](Self::spare).
    #[inline]
    pub fn add(&mut self, written: usize) {
        self.used += written.min(self.room());
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.used
    }

    /// All, in order.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        &self.all[..self.used]
    }

    /// All, to change.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.all[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_s_segments_fit_whenever_there_is_room() {
        let segment = |address| Segment { address, length: 1 };
        let mut batch = Batch::default();
        batch.begin();
        let mut count = 0;
        while batch.has_room() {
            for _ in 0..MOST_SEGMENTS {
                assert!(batch.segments.push(segment(count)));
                count += 1;
            }
        }
        assert_eq!(batch.segments.len(), SEGMENTS);
        assert!(!batch.segments.push(segment(0)));
        batch.segments.truncate(2);
        assert_eq!(batch.segments.as_slice(), [segment(0), segment(1)]);
        batch.segments.spare()[0] = segment(9);
        batch.segments.add(1);
        assert_eq!(batch.segments.as_slice()[2], segment(9));
        batch.begin();
        assert_eq!(batch.segments.len(), 0);
    }
}
