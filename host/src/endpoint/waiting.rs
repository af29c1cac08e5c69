//! Packets that were accepted and wait in guest memory.

use std::collections::VecDeque;

use super::packet::{TxPacket, TxStatus};
use crate::memory::Segment;

/// Packets that wait, in order.
#[derive(Debug, Default)]
pub struct Waiting {
    packets: VecDeque<TxPacket>,
    segments: VecDeque<Segment>,
}

impl Waiting {
    /// The most packets that wait: four times what a ring of Linux's mana
    /// driver holds by default.
    pub const MAX_PACKETS: usize = 1024;
    /// The most segments that they have together.
    const MAX_SEGMENTS: usize = 16 * Self::MAX_PACKETS;

    /// Adds a packet, which is then pending; or drops it if there are too many.
    pub fn push(&mut self, packet: &TxPacket, segments: &[Segment]) -> TxStatus {
        if self.packets.len() >= Self::MAX_PACKETS
            || self.segments.len() + segments.len() > Self::MAX_SEGMENTS
        {
            return TxStatus::Dropped;
        }
        self.packets.push_back(*packet);
        self.segments.extend(segments);
        TxStatus::Pending
    }

    /// Returns the first packet, with its segments.
    pub fn front(&self) -> Option<(TxPacket, impl Iterator<Item = Segment> + Clone + '_)> {
        let packet = *self.packets.front()?;
        let segments = self.segments.iter().take(packet.segments.into()).copied();
        Some((packet, segments))
    }

    /// Forgets the first packet.
    pub fn pop(&mut self) {
        if let Some(packet) = self.packets.pop_front() {
            self.segments.drain(..usize::from(packet.segments));
        }
    }

    /// Returns the number of packets.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.segments.clear();
    }
}
