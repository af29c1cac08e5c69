//! An endpoint whose other end is the port itself.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use super::counters::Counters;
use super::head::Head;
use super::headers::{ADDRESS_BYTES, TAG_BYTES, tag_control};
use super::offload::{self, Prepared, Refusal, Request};
use super::vnet::GsoType;
use super::{
    Endpoint, PortIo, Posted, RECEIVE_BUDGET, Received, RxFlags, Segment, TxBatch, TxCompletion,
    TxPacket, TxStatus, rx_flags,
};
use crate::memory::{Access, Fault, GuestMemory, Span};

/// The longest IP packet there is. A loopback has no MTU of its own.
const MAX_IP_BYTES: usize = 65535;

/// Gives back what is transmitted, in order.
///
/// Bytes go from guest memory to guest memory, once. A packet for which no
/// buffer is posted waits where it lies, so the guest gets its memory back
/// when the packet has arrived.
///
/// A requested TCP or UDP checksum is not computed, and reported as good: what
/// arrives is what left, so there is nothing that it could protect from. The
/// field holds the pseudo header's sum then, as on Linux's own `lo`.
///
/// A packet that is to be cut into several segments is refused
/// ([`TxStatus::BadHeaders`]): no receiver of this port takes it whole, and
/// cutting it is the work of a network stack, which a loopback has none of.
#[derive(Debug, Default)]
pub struct Loopback {
    waiting: Waiting,
    wire: Wire,
}

/// What takes a packet from one place in guest memory to another.
#[derive(Debug, Default)]
struct Wire {
    head: Head,
    counters: Counters,
}

/// Packets that wait for a buffer, in order.
#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<TxPacket>,
    segments: VecDeque<Segment>,
}

impl Waiting {
    /// The most packets that wait: four times what a ring of Linux's mana
    /// driver holds by default.
    const MAX_PACKETS: usize = 1024;
    /// The most segments that they have together.
    const MAX_SEGMENTS: usize = 16 * Self::MAX_PACKETS;

    fn push(&mut self, packet: &TxPacket, segments: &[Segment]) -> TxStatus {
        if self.packets.len() >= Self::MAX_PACKETS
            || self.segments.len() + segments.len() > Self::MAX_SEGMENTS
        {
            return TxStatus::Dropped;
        }
        self.packets.push_back(*packet);
        self.segments.extend(segments);
        TxStatus::Pending
    }

    fn front(&self) -> Option<(TxPacket, impl Iterator<Item = Segment> + Clone + '_)> {
        let packet = *self.packets.front()?;
        let segments = self.segments.iter().take(packet.segments.into()).copied();
        Some((packet, segments))
    }

    fn pop(&mut self) {
        if let Some(packet) = self.packets.pop_front() {
            self.segments.drain(..usize::from(packet.segments));
        }
    }

    fn len(&self) -> usize {
        self.packets.len()
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn clear(&mut self) {
        self.packets.clear();
        self.segments.clear();
    }
}

impl Loopback {
    /// A new one.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was sent, received and dropped so far.
    pub fn counters(&self) -> &Counters {
        &self.wire.counters
    }
}

impl Wire {
    /// Delivers a packet, unless there is something wrong with it. Returns
    /// `Pending`, and counts nothing, if there is no buffer.
    fn carry(
        &mut self,
        io: &mut PortIo<'_>,
        packet: &TxPacket,
        segments: impl Iterator<Item = Segment> + Clone,
    ) -> TxStatus {
        let length = segments.clone().map(|s| u64::from(s.length)).sum();
        let status = match self.check(io.memory, packet, segments.clone(), length) {
            Ok(prepared) => self.deliver(io, segments, &prepared),
            Err(status) => status,
        };
        self.counters.transmit.count(status, length);
        status
    }

    /// Checks a packet of `length` bytes and its memory; the head holds what
    /// is to arrive then.
    fn check(
        &mut self,
        memory: &GuestMemory,
        packet: &TxPacket,
        segments: impl Iterator<Item = Segment> + Clone,
        length: u64,
    ) -> Result<Prepared, TxStatus> {
        let request = Request::of(packet)?;
        let fault = |_: Fault| TxStatus::MemoryFault;
        for segment in segments.clone() {
            let length = segment.length.into();
            memory
                .check(segment.address, length, Access::Read)
                .map_err(fault)?;
        }
        self.head.load(memory, segments).map_err(fault)?;
        let length = usize::try_from(length).map_err(|_| TxStatus::TooLong)?;
        let prepared = offload::prepare(&request, &mut self.head, length, MAX_IP_BYTES)?;
        if prepared.vnet.gso != GsoType::None {
            return Err(Refusal::BadHeaders.into());
        }
        Ok(prepared)
    }

    /// Writes a checked packet to the first posted buffer that is memory.
    fn deliver(
        &mut self,
        io: &mut PortIo<'_>,
        segments: impl Iterator<Item = Segment> + Clone,
        prepared: &Prepared,
    ) -> TxStatus {
        while let Some(buffer) = io.rx.front() {
            match self.write(io.memory, segments.clone(), prepared, &buffer) {
                Ok(received) => {
                    buffer.complete(received, io.done);
                    return TxStatus::Sent;
                }
                Err(Fault {
                    access: Access::Read,
                    ..
                }) => {
                    return TxStatus::MemoryFault;
                }
                Err(_) => {
                    self.counters.receive.memory_faults += 1;
                    buffer.complete(Received::FAULT, io.done);
                }
            }
        }
        TxStatus::Pending
    }

    fn write(
        &mut self,
        memory: &GuestMemory,
        segments: impl Iterator<Item = Segment> + Clone,
        prepared: &Prepared,
        buffer: &Posted<'_>,
    ) -> Result<Received, Fault> {
        let head = self.head.bytes();
        let copied = self.head.copied();
        let rest = prepared.length.saturating_sub(copied);
        // A tag goes beside the frame, as from any other wire.
        let tag = tag_control(head);
        let parts = match tag {
            Some(_) => [&head[..ADDRESS_BYTES], &head[ADDRESS_BYTES + TAG_BYTES..]],
            None => [head, &[]],
        };
        let mut written = 0;
        for part in parts {
            Span::new(buffer.segments())
                .advance(written as u64)
                .write(memory, part)?;
            written += part.len();
        }
        if rest > 0 {
            let behind = Span::new(buffer.segments()).advance(written as u64);
            Span::new(segments)
                .advance(copied as u64)
                .limit(rest as u64)
                .copy_to(memory, behind)?;
        }
        let length = (written + rest) as u64;
        let truncated = length > buffer.capacity();
        let mut flags = rx_flags::classify(head);
        if prepared.vnet.partial.is_some() {
            flags = rx_flags::with_good_transport_checksum(flags);
        }
        if truncated {
            flags |= RxFlags::TRUNCATED;
        }
        self.counters.receive.count(length, truncated);
        // Fits: no packet is longer than `MAX_IP_BYTES` and its link header.
        if tag.is_some() {
            flags |= RxFlags::VLAN;
        }
        Ok(Received {
            length: length as u32,
            flags,
            vlan_tci: tag.unwrap_or(0),
        })
    }
}

impl Endpoint for Loopback {
    fn name(&self) -> String {
        "loopback".to_owned()
    }

    fn transmit(&mut self, io: &mut PortIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        for (packet, segments) in batch.iter() {
            let mut now = TxStatus::Pending;
            if self.waiting.is_empty() {
                now = self.wire.carry(io, packet, segments.iter().copied());
            }
            if now == TxStatus::Pending {
                now = self.waiting.push(packet, segments);
            }
            if now == TxStatus::Dropped {
                self.wire.counters.transmit.dropped_busy += 1;
            }
            status.push(now);
        }
    }

    fn receive(&mut self, io: &mut PortIo<'_>) -> bool {
        for _ in 0..RECEIVE_BUDGET {
            let Some((packet, segments)) = self.waiting.front() else {
                return false;
            };
            let status = self.wire.carry(io, &packet, segments);
            if status == TxStatus::Pending {
                return false;
            }
            let id = packet.id;
            io.done.transmitted.push(TxCompletion { id, status });
            self.waiting.pop();
        }
        !self.waiting.is_empty()
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn cancel(&mut self) {
        self.waiting.clear();
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": "loopback",
            "waiting": self.waiting.packets.len(),
            "counters": self.wire.counters,
        })
    }
}

#[cfg(test)]
mod tests;
