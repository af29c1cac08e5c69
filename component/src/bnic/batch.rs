//! The buffers for what is handed to the host in one call, kept between calls.

use alloc::boxed::Box;
use alloc::vec;

use device_kit::platform::{Offloads, RxBuffer, Segment, TxPacket};
use mana_wire::queue::{MAX_SQE_SIZE, WQE_UNIT};

use super::tx::transmit::Taken;
use crate::gdma::queue::wq::Wqe;

/// Packets handed over in one call.
pub const PACKETS: usize = 64;
/// Buffers handed over in one call.
pub const BUFFERS: usize = 256;
/// The most segments of a WQE: those that fit after header and OOB.
pub const MOST_SEGMENTS: usize = (MAX_SQE_SIZE as usize - WQE_UNIT as usize / 2) / 16;
/// Segments of a full batch of the longest packets.
const SEGMENTS: usize = PACKETS * MOST_SEGMENTS;

/// What is about to be handed to the host.
#[derive(Debug, Default)]
pub struct Batch {
    /// The WQE that is being read.
    pub wqe: Wqe,
    /// Packets to transmit.
    pub packets: List<TxPacket>,
    /// Buffers to receive into.
    pub buffers: List<RxBuffer>,
    /// The segments of either, in order.
    pub segments: List<Segment>,
    /// The WQEs of transmits that were taken, in order.
    pub taken: List<Taken>,
    /// The bytes of all transmits that were taken; None once one of them is not handed
    /// over, or suppresses its completion.
    pub alike_bytes: Option<u64>,
}

impl Batch {
    /// Empties the batch. The first call allocates its memory, so a device that never
    /// transmits or receives has none.
    pub fn begin(&mut self) {
        let segment = Segment {
            address: 0,
            length: 0,
        };
        let buffer = RxBuffer { id: 0, segments: 0 };
        let packet = TxPacket::with_offloads(0, 0, Offloads::empty());
        self.packets.begin(packet, PACKETS);
        self.taken.begin(Taken::default(), PACKETS);
        self.buffers.begin(buffer, BUFFERS);
        self.segments.begin(segment, SEGMENTS);
        self.alike_bytes = Some(0);
    }

    /// Returns whether the segments of the longest WQE still fit.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.segments.room() >= MOST_SEGMENTS
    }
}

/// A list of fixed capacity, so that adding a value is a store.
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
    /// Adds a value, for which there is room.
    #[inline]
    pub fn push(&mut self, value: T) {
        self.all[self.used] = value;
        self.used += 1;
    }

    /// Removes all values.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Returns how many more fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.all.len() - self.used
    }

    /// Returns the free part, to be written from the front on and then
    /// [added](Self::add).
    #[inline]
    pub fn spare(&mut self) -> &mut [T] {
        &mut self.all[self.used..]
    }

    /// Adds what was written to [`spare`](Self::spare).
    #[inline]
    pub fn add(&mut self, written: usize) {
        debug_assert!(written <= self.room());
        self.used += written;
    }

    /// Returns the number of values.
    #[inline]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Returns the values in order.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        &self.all[..self.used]
    }

    /// Returns the values in order, mutable.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.all[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wqe_s_segments_fit_whenever_there_is_room() {
        let segment = |address| Segment { address, length: 1 };
        let mut batch = Batch::default();
        batch.begin();
        let mut count = 0;
        while batch.has_room() {
            for _ in 0..MOST_SEGMENTS {
                batch.segments.push(segment(count));
                count += 1;
            }
        }
        assert_eq!(batch.segments.len(), SEGMENTS);
        batch.begin();
        batch.segments.push(segment(1));
        batch.segments.spare()[0] = segment(9);
        batch.segments.add(1);
        assert_eq!(batch.segments.as_slice(), [segment(1), segment(9)]);
        batch.segments.clear();
        assert_eq!(batch.segments.len(), 0);
    }
}
