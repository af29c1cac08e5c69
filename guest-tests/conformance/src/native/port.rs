//! A port of a native bench: what was transmitted, and what waits.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use device_kit::platform::{
    RxBuffer, RxFlags, RxPacket, Segment, TxCompletion, TxPacket, TxStatus,
};

use super::memory::GuestMemory;
use crate::bench::Transmitted;

/// The most buffers that a host holds.
const MAX_BUFFERS: usize = 4096;

/// A queue pair of a port.
#[derive(Debug)]
pub struct Port {
    /// Packets since the test last looked.
    pub transmitted: Vec<Transmitted>,
    /// How the next ones end.
    pub plan: VecDeque<TxStatus>,
    /// Names of those that have not ended.
    pub pending: VecDeque<u32>,
    /// Buffers with their segments.
    pub posted: VecDeque<(u32, Vec<Segment>)>,
    /// The most buffers it takes.
    pub limit: usize,
    /// The last packet that was handed over.
    pub handed_over: Option<u32>,
}

impl Default for Port {
    fn default() -> Self {
        Self {
            transmitted: Vec::new(),
            plan: VecDeque::new(),
            pending: VecDeque::new(),
            posted: VecDeque::new(),
            limit: MAX_BUFFERS,
            handed_over: None,
        }
    }
}

impl Port {
    /// Takes a packet. Returns its status, and its length and
    /// destination if it was taken.
    pub fn transmit(
        &mut self,
        memory: &GuestMemory,
        packet: &TxPacket,
        segments: &[Segment],
    ) -> (TxStatus, Vec<u8>) {
        let mut frame = Vec::new();
        for segment in segments {
            let from = frame.len();
            let length = segment.length as usize;
            if length as u64 > crate::bench::MEMORY_SIZE {
                return (TxStatus::MemoryFault, Vec::new());
            }
            frame.resize(from + length, 0);
            if memory.read(segment.address, &mut frame[from..]).is_err() {
                return (TxStatus::MemoryFault, Vec::new());
            }
        }
        let status = self.plan.pop_front().unwrap_or(TxStatus::Sent);
        if status == TxStatus::Pending {
            self.pending.push_back(packet.id);
        }
        if matches!(status, TxStatus::Sent | TxStatus::Pending) {
            self.transmitted.push(Transmitted {
                frame: frame.clone(),
                segments: packet.segments,
                offloads: packet.offloads,
                l4_offset: packet.l4_offset,
                segment_size: packet.segment_size,
                vlan_tci: packet.vlan_tci,
            });
        }
        (status, frame)
    }

    /// Ends the oldest pending packets.
    pub fn finish(&mut self, statuses: &[TxStatus]) -> Vec<TxCompletion> {
        let ended = statuses.iter().map(|status| TxCompletion {
            id: self.pending.pop_front().expect("a pending transmit"),
            status: *status,
        });
        ended.collect()
    }

    /// Takes buffers from the front, as many as fit.
    pub fn post(&mut self, buffers: &[RxBuffer], mut segments: &[Segment]) -> u32 {
        let claimed: usize = buffers.iter().map(|b| usize::from(b.segments)).sum();
        assert_eq!(claimed, segments.len(), "segments of posted buffers");
        let room = self.limit.saturating_sub(self.posted.len());
        let taken = buffers.len().min(room);
        for buffer in &buffers[..taken] {
            assert!(buffer.segments > 0, "a buffer without segments");
            let (own, later) = segments.split_at(buffer.segments.into());
            self.posted.push_back((buffer.id, own.to_vec()));
            segments = later;
        }
        taken as u32
    }

    /// Receives a frame. None if no buffer is posted.
    pub fn receive(
        &mut self,
        memory: &GuestMemory,
        frame: &[u8],
        mut flags: RxFlags,
    ) -> Option<RxPacket> {
        let (id, segments) = self.posted.pop_front()?;
        let (frame, tag) = crate::bench::untag(frame);
        flags.set(RxFlags::VLAN, tag.is_some());
        let mut rest = &frame[..];
        for segment in &segments {
            let (now, later) = rest.split_at(rest.len().min(segment.length as usize));
            if memory.write(segment.address, now).is_err() {
                return Some(RxPacket {
                    id,
                    length: 0,
                    vlan_tci: 0,
                    flags: RxFlags::MEMORY_FAULT,
                    hash: 0,
                });
            }
            rest = later;
        }
        if !rest.is_empty() {
            flags |= RxFlags::TRUNCATED;
        }
        Some(RxPacket {
            id,
            length: frame.len() as u32,
            vlan_tci: tag.unwrap_or_default(),
            flags,
            hash: if flags.intersects(RxFlags::HASH_L3 | RxFlags::HASH_L4) {
                crate::bench::hash_of(&frame)
            } else {
                0
            },
        })
    }
}
