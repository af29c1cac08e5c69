//! A port: the wire behind it, and what the device gave it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::bindings::exports::manatee::testbed::control::{Arrival, Transmitted};
use crate::bindings::manatee::device::types::{
    RxBuffer, RxFlags, RxPacket, Segment, TxCompletion, TxPacket, TxStatus,
};
use crate::memory::Memory;

/// The most buffers that a host holds of a queue.
pub const MAX_BUFFERS: usize = 4096;
/// The most packets that are kept until they are taken.
const MAX_KEPT: usize = 4096;

/// A port.
#[derive(Debug)]
pub struct Port {
    transmitted: Vec<Transmitted>,
    /// How the next transmits end.
    plan: VecDeque<TxStatus>,
    /// Ids of transmits that are not finished.
    pending: VecDeque<u32>,
    buffers: VecDeque<(u32, Vec<Segment>)>,
    limit: usize,
}

impl Default for Port {
    fn default() -> Self {
        Self {
            transmitted: Vec::new(),
            plan: VecDeque::new(),
            pending: VecDeque::new(),
            buffers: VecDeque::new(),
            limit: MAX_BUFFERS,
        }
    }
}

/// Gives packets or buffers their segments. None if they do not add up.
fn share<'a, T>(
    items: &'a [T],
    count: impl Fn(&T) -> u16,
    segments: &'a [Segment],
) -> Option<Vec<(&'a T, &'a [Segment])>> {
    let mut rest = segments;
    let mut shared = Vec::new();
    for item in items {
        let count = usize::from(count(item));
        let (own, later) = rest.split_at_checked(count).filter(|_| count > 0)?;
        shared.push((item, own));
        rest = later;
    }
    rest.is_empty().then_some(shared)
}

impl Port {
    /// Takes packets: what became of each, and its frame if the port has it.
    /// None if they do not add up.
    pub fn transmit(
        &mut self,
        memory: &Memory,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> Option<Vec<(TxStatus, Vec<u8>)>> {
        let packets = share(packets, |packet| packet.segments, segments)?;
        let mut outcomes = Vec::new();
        for (packet, segments) in packets {
            outcomes.push(match memory.gather(segments) {
                Some(frame) => (self.take(packet, &frame), frame),
                None => (TxStatus::MemoryFault, Vec::new()),
            });
        }
        Some(outcomes)
    }

    fn take(&mut self, packet: &TxPacket, frame: &[u8]) -> TxStatus {
        let status = self.plan.pop_front().unwrap_or(TxStatus::Sent);
        if status == TxStatus::Pending {
            self.pending.push_back(packet.id);
        }
        let room = self.transmitted.len() < MAX_KEPT;
        if room && matches!(status, TxStatus::Sent | TxStatus::Pending) {
            self.transmitted.push(Transmitted {
                frame: frame.to_vec(),
                segments: packet.segments,
                l4_offset: packet.l4_offset,
                segment_size: packet.segment_size,
                vlan_tci: packet.vlan_tci,
                offloads: packet.offloads,
            });
        }
        status
    }

    /// Returns what it took since the last call.
    pub fn take_transmitted(&mut self) -> Vec<Transmitted> {
        core::mem::take(&mut self.transmitted)
    }

    /// How the next transmits end.
    pub fn plan_transmits(&mut self, statuses: &[TxStatus]) {
        self.plan = statuses.iter().copied().collect();
    }

    /// Ends the oldest pending transmits.
    pub fn finish_transmits(&mut self, statuses: &[TxStatus]) -> Vec<TxCompletion> {
        let count = self.pending.len().min(statuses.len());
        let ended = self.pending.drain(..count).zip(statuses);
        ended
            .map(|(id, &status)| TxCompletion { id, status })
            .collect()
    }

    /// Returns the number of pending transmits.
    pub fn pending_transmits(&self) -> usize {
        self.pending.len()
    }

    /// Forgets pending transmits.
    pub fn cancel_transmit(&mut self) {
        self.pending.clear();
    }

    /// Takes as many buffers as the limit allows; returns how many. None if
    /// they do not add up.
    pub fn post(&mut self, buffers: &[RxBuffer], segments: &[Segment]) -> Option<u32> {
        let buffers = share(buffers, |buffer| buffer.segments, segments)?;
        let room = self.limit.saturating_sub(self.buffers.len());
        let taken = buffers.iter().take(room);
        self.buffers
            .extend(taken.map(|(buffer, segments)| (buffer.id, segments.to_vec())));
        Some(buffers.len().min(room) as u32)
    }

    /// The most buffers that it takes from now on.
    pub fn limit_buffers(&mut self, most: usize) {
        self.limit = most.min(MAX_BUFFERS);
    }

    /// Returns the number of posted buffers.
    pub fn posted_buffers(&self) -> usize {
        self.buffers.len()
    }

    /// Forgets every buffer.
    pub fn cancel_receive(&mut self) {
        self.buffers.clear();
    }

    /// Frames arrive; those that find a buffer are returned.
    pub fn arrive(&mut self, memory: &mut Memory, frames: &[Arrival]) -> Vec<RxPacket> {
        let count = self.buffers.len().min(frames.len());
        let filled = self.buffers.drain(..count).zip(frames);
        filled
            .map(|((id, segments), arrival)| fill(memory, id, &segments, arrival))
            .collect()
    }
}

fn fill(memory: &mut Memory, id: u32, segments: &[Segment], arrival: &Arrival) -> RxPacket {
    let mut flags = arrival.flags;
    let capacity: u64 = segments.iter().map(|s| u64::from(s.length)).sum();
    let mut length = arrival.frame.len() as u32;
    if memory.scatter(segments, &arrival.frame).is_none() {
        (flags, length) = (RxFlags::MEMORY_FAULT, 0);
    } else if u64::from(length) > capacity {
        flags |= RxFlags::TRUNCATED;
    }
    RxPacket {
        id,
        length,
        vlan_tci: arrival.vlan_tci,
        flags,
        hash: 0,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::bindings::manatee::device::types::Offloads;

    fn packet(id: u32, segments: u16) -> TxPacket {
        TxPacket {
            id,
            segments,
            l4_offset: 0,
            segment_size: 0,
            vlan_tci: 0,
            offloads: Offloads::empty(),
        }
    }

    fn segments(lengths: &[u32]) -> Vec<Segment> {
        let at = lengths.iter().enumerate();
        at.map(|(i, &length)| Segment {
            address: i as u64 * 4096,
            length,
        })
        .collect()
    }

    #[test]
    fn transmits_end_as_planned() {
        let (mut port, mut memory) = (Port::default(), Memory::default());
        memory.poke(0, b"frame");
        port.plan_transmits(&[TxStatus::Pending, TxStatus::Dropped]);
        let packets = [packet(7, 1), packet(8, 2), packet(9, 1)];
        let outcomes = port
            .transmit(&memory, &packets, &segments(&[5, 1, 1, 1]))
            .unwrap();
        let statuses: Vec<_> = outcomes.iter().map(|(status, _)| *status).collect();
        assert_eq!(
            statuses,
            [TxStatus::Pending, TxStatus::Dropped, TxStatus::Sent]
        );
        let taken = port.take_transmitted();
        assert_eq!(taken.len(), 2, "a dropped packet is on no wire");
        assert_eq!(taken[0].frame, b"frame");
        assert_eq!(port.pending_transmits(), 1);
        let ended = port.finish_transmits(&[TxStatus::Sent, TxStatus::Sent]);
        let expected = TxCompletion {
            id: 7,
            status: TxStatus::Sent,
        };
        assert_eq!(ended, vec![expected]);
    }

    #[test]
    fn lists_that_do_not_add_up_are_seen() {
        let (mut port, memory) = (Port::default(), Memory::default());
        for (count, given) in [(1, 2), (2, 1), (0, 0)] {
            let given = segments(&[1, 1][..given]);
            assert!(
                port.transmit(&memory, &[packet(0, count)], &given)
                    .is_none()
            );
        }
    }

    #[test]
    fn frames_fill_the_buffers_at_the_front() {
        let (mut port, mut memory) = (Port::default(), Memory::default());
        port.limit_buffers(2);
        let buffers = [1, 2, 3].map(|id| RxBuffer { id, segments: 1 });
        assert_eq!(port.post(&buffers, &segments(&[4, 4, 4])), Some(2));
        let arrivals = [&b"four"[..], b"fives", b"none"].map(|frame| Arrival {
            frame: frame.to_vec(),
            vlan_tci: 0,
            flags: RxFlags::IPV4,
        });
        let packets = port.arrive(&mut memory, &arrivals);
        assert_eq!(packets.len(), 2);
        assert_eq!((packets[0].id, packets[0].flags), (1, RxFlags::IPV4));
        assert_eq!(packets[1].flags, RxFlags::IPV4 | RxFlags::TRUNCATED);
        assert_eq!(packets[1].length, 5);
        assert_eq!(memory.peek(4096, 5), Some(&b"five\0"[..]));
    }
}
