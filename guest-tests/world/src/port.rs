//! A port: its wire, and the device's packets and buffers.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use device_kit::platform::{
    Offloads, RxBuffer, RxFlags, RxPacket, Segment, TxCompletion, TxPacket, TxStatus,
};

use crate::contract::{LinkStatistics, Steering};
use crate::memory::Memory;

/// The most buffers that a host holds of a queue.
pub const MAX_BUFFERS: usize = 4096;
/// The most packets that a port keeps until a test takes them.
const MAX_KEPT: usize = 4096;

/// A packet that the device transmitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmitted {
    /// The frame, as it was in guest memory when it was handed over.
    pub frame: Vec<u8>,
    /// Number of segments it came in.
    pub segments: u16,
    /// The requested offloads.
    pub offloads: Offloads,
    /// Offset of the transport header, 0 if the driver did not give it.
    pub l4_offset: u16,
    /// Payload bytes a segment, for segmentation.
    pub segment_size: u16,
    /// Tag to insert.
    pub vlan_tci: u16,
}

/// A port.
#[derive(Debug)]
pub struct Port {
    queues: Vec<Queue>,
    steering: Option<Steering>,
    /// The limit that the device set, in Mbit/s.
    pub rate_limit: Option<u32>,
    /// The counters of its link, which a test sets.
    pub counted: LinkStatistics,
}

/// Counters of an unused link.
const NOTHING: LinkStatistics = LinkStatistics {
    rx_packets: 0,
    rx_bytes: 0,
    rx_dropped: 0,
    tx_packets: 0,
    tx_bytes: 0,
    tx_dropped: 0,
};

impl Port {
    /// Creates a port with this many queue pairs.
    pub fn new(queues: u16) -> Self {
        Self {
            queues: (0..queues).map(|_| Queue::default()).collect(),
            steering: None,
            rate_limit: None,
            counted: NOTHING,
        }
    }

    /// Returns the number of its queue pairs.
    pub fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Returns a queue pair.
    ///
    /// # Panics
    ///
    /// If there is none of this number.
    pub fn queue(&mut self, queue: u32) -> &mut Queue {
        let count = self.queues.len();
        let found = self.queues.get_mut(queue as usize);
        found.unwrap_or_else(|| panic!("queue {queue} of a port with {count}"))
    }

    /// Sets how received packets find their queue.
    pub(crate) fn steer(&mut self, steering: Steering) {
        self.steering = Some(steering);
    }

    /// Returns how received packets find their queue, if the device set it.
    pub fn steering(&self) -> Option<&Steering> {
        self.steering.as_ref()
    }
}

/// A queue pair of a port, and what is on its wire.
#[derive(Debug)]
pub struct Queue {
    /// The most transmitted packets that it keeps until a test takes them.
    pub keeps: usize,
    transmitted: Vec<Transmitted>,
    /// How the next transmits end.
    plan: VecDeque<TxStatus>,
    /// Ids of transmits that have not ended.
    pending: VecDeque<u32>,
    /// The last packet that was handed over.
    handed_over: Option<u32>,
    /// Buffers that no frame was written to yet.
    buffers: VecDeque<RxBuffer>,
    /// Their segments, in the same order.
    segments: VecDeque<Segment>,
    /// The most buffers that it takes.
    limit: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            keeps: MAX_KEPT,
            transmitted: Vec::new(),
            plan: VecDeque::new(),
            pending: VecDeque::new(),
            handed_over: None,
            buffers: VecDeque::new(),
            segments: VecDeque::new(),
            limit: MAX_BUFFERS,
        }
    }
}

impl Queue {
    /// Takes a packet with this frame. Returns the planned status.
    pub fn take_packet(&mut self, packet: &TxPacket, frame: &[u8]) -> TxStatus {
        let status = self.plan.pop_front().unwrap_or(TxStatus::Sent);
        if status == TxStatus::Pending {
            self.pending.push_back(packet.id);
        }
        let is_on_the_wire = matches!(status, TxStatus::Sent | TxStatus::Pending);
        if is_on_the_wire && self.transmitted.len() < self.keeps {
            self.transmitted.push(Transmitted {
                frame: frame.to_vec(),
                segments: packet.segments,
                offloads: packet.offloads,
                l4_offset: packet.l4_offset,
                segment_size: packet.segment_size,
                vlan_tci: packet.vlan_tci,
            });
        }
        status
    }

    /// Returns what was transmitted since the last call, in order.
    pub fn take_transmitted(&mut self) -> Vec<Transmitted> {
        core::mem::take(&mut self.transmitted)
    }

    /// Plans the statuses of the next transmits, in place of an earlier plan; later ones
    /// are sent.
    pub fn plan_transmits(&mut self, statuses: &[TxStatus]) {
        self.plan.clear();
        self.plan.extend(statuses);
    }

    /// Ends the oldest pending transmits, as many as there are.
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

    /// Forgets the pending transmits.
    pub fn cancel_transmit(&mut self) {
        self.pending.clear();
        self.handed_over = None;
    }

    /// Notes the last packet of a batch.
    pub(crate) fn note_handed_over(&mut self, id: u32) {
        self.handed_over = Some(id);
    }

    /// Returns the last packet that was handed over.
    pub fn handed_over(&self) -> Option<u32> {
        self.handed_over
    }

    /// Takes buffers from the front, as many as the limit allows, each with its next
    /// `segments` of the segments. Returns how many it took.
    pub(crate) fn post(&mut self, buffers: &[RxBuffer], segments: &[Segment]) -> u32 {
        let room = self.limit.saturating_sub(self.buffers.len());
        let taken = &buffers[..buffers.len().min(room)];
        let count = taken.iter().map(|it| usize::from(it.segments)).sum();
        self.buffers.extend(taken);
        self.segments.extend(&segments[..count]);
        taken.len() as u32
    }

    /// Limits the buffers that it takes from now on.
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
        self.segments.clear();
    }

    /// Writes an arriving frame to the next buffer. `flags` are added to those that are
    /// set here: `VLAN`, `TRUNCATED` and `MEMORY_FAULT`. Returns None if there is no
    /// buffer.
    pub fn receive(&mut self, memory: &Memory, frame: &[u8], flags: RxFlags) -> Option<RxPacket> {
        let RxBuffer { id, segments } = self.buffers.pop_front()?;
        let count = usize::from(segments);
        let (frame, tag) = untag(frame);
        let own = self.segments.iter().take(count);
        let room: u64 = own.clone().map(|segment| u64::from(segment.length)).sum();
        let is_memory = memory.scatter(own, &frame);
        self.segments.drain(..count);
        if !is_memory {
            return Some(RxPacket {
                id,
                length: 0,
                vlan_tci: 0,
                flags: RxFlags::MEMORY_FAULT,
                hash: 0,
            });
        }
        let mut flags = flags;
        flags.set(RxFlags::VLAN, tag.is_some());
        if frame.len() as u64 > room {
            flags |= RxFlags::TRUNCATED;
        }
        let has_hash = flags.intersects(RxFlags::HASH_L3 | RxFlags::HASH_L4);
        Some(RxPacket {
            id,
            length: frame.len() as u32,
            vlan_tci: tag.unwrap_or_default(),
            flags,
            hash: if has_hash { hash_of(&frame) } else { 0 },
        })
    }
}

/// Returns the hash of a frame whose flags ask for one: no two numbered frames have the
/// same.
pub fn hash_of(frame: &[u8]) -> u32 {
    let bytes = frame.iter().skip(14).take(4);
    bytes.fold(0x9e37_79b9, |hash, byte| {
        hash.rotate_left(8) ^ u32::from(*byte)
    })
}

/// Returns a frame without its 802.1Q tag, and the tag control information.
pub fn untag(frame: &[u8]) -> (Vec<u8>, Option<u16>) {
    match frame {
        [addresses @ .., _, _, _, _] if addresses.len() >= 12 && frame[12..14] == [0x81, 0] => {
            let tci = u16::from_be_bytes([frame[14], frame[15]]);
            ([&frame[..12], &frame[16..]].concat(), Some(tci))
        }
        _ => (frame.to_vec(), None),
    }
}

#[cfg(test)]
mod tests;
