//! Packets to transmit, with their segments.

use super::packet::TxPacket;
use crate::memory::Segment;

/// Packets to transmit; their segments are in `segments` in the same order.
#[derive(Clone, Copy, Debug)]
pub struct TxBatch<'a> {
    packets: &'a [TxPacket],
    segments: &'a [Segment],
}

/// A batch whose packets do not add up to its segments.
#[derive(Debug, thiserror::Error)]
#[error("the packets of a batch claim {claimed} segments, {given} are given, or one has none")]
pub struct UnevenBatch {
    claimed: usize,
    given: usize,
}

impl<'a> TxBatch<'a> {
    /// Checks that every packet has at least one segment and that all add up.
    ///
    /// # Errors
    ///
    /// [`UnevenBatch`] otherwise.
    pub fn new(packets: &'a [TxPacket], segments: &'a [Segment]) -> Result<Self, UnevenBatch> {
        let claimed = packets.iter().map(|p| usize::from(p.segments)).sum();
        if claimed != segments.len() || packets.iter().any(|p| p.segments == 0) {
            return Err(UnevenBatch {
                claimed,
                given: segments.len(),
            });
        }
        Ok(Self { packets, segments })
    }

    /// Returns the packets with their segments, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a TxPacket, &'a [Segment])> + use<'a> {
        let mut rest = self.segments;
        self.packets.iter().map(move |packet| {
            let (own, later) = rest.split_at(packet.segments.into());
            rest = later;
            (packet, own)
        })
    }

    /// Splits off the first `count` packets, or all.
    pub fn split_at(self, count: usize) -> (Self, Self) {
        let (packets, later) = self.packets.split_at(count.min(self.packets.len()));
        let used = packets.iter().map(|p| usize::from(p.segments)).sum();
        let (segments, rest) = self.segments.split_at(used);
        let first = Self { packets, segments };
        let second = Self {
            packets: later,
            segments: rest,
        };
        (first, second)
    }

    /// Returns the number of packets.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Returns whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
