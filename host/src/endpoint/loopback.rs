//! An endpoint that returns packets to the port that sent them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::batch::TxBatch;
use super::counters::Counters;
use super::crossing::{About, Route, Switch};
use super::head::Head;
use super::headers::{ADDRESS_BYTES, ETHERNET_BYTES, Layout, TAG_BYTES, tag_control};
use super::offload::{self, Prepared, Refusal, Request};
use super::packet::{RxFlags, TxCompletion, TxPacket, TxStatus};
use super::policy::Policy;
use super::queue::{Endpoint, Queue, QueueIo, RECEIVE_BUDGET};
use super::rss::Rss;
use super::rx_flags;
use super::rx_queue::{Posted, Received};
use super::vnet::GsoType;
use super::waiting::Waiting;
use crate::memory::{Access, Fault, GuestMemory, Segment, Span};

/// The longest IP packet there is. A loopback has no MTU of its own.
const MAX_IP_BYTES: usize = 65535;

/// Returns what is transmitted, in order.
///
/// Bytes are copied once, from guest memory to guest memory. A packet for which no buffer is
/// posted stays in guest memory until it is delivered, and is only then completed.
///
/// A requested TCP or UDP checksum is not computed, and reported as good: the packet can't be
/// corrupted on the way. The field then holds the pseudo header's sum, as on Linux's own `lo`.
///
/// A packet that needs segmentation is refused ([`TxStatus::BadHeaders`]): no receiver of this
/// port accepts it whole, and a loopback does not segment.
///
/// A packet is delivered on the queue that steering selects. If that is another than the one it
/// was sent on, it is copied.
#[derive(Debug)]
pub struct Loopback {
    switch: Switch,
    queues: Vec<LoopbackQueue>,
}

/// A queue of a [`Loopback`].
#[derive(Debug, Default)]
pub struct LoopbackQueue {
    waiting: Waiting,
    wire: Wire,
}

/// Copies a packet from one part of guest memory to another.
#[derive(Debug, Default)]
struct Wire {
    head: Head,
    counters: Counters,
    route: Route,
}

impl Loopback {
    /// Creates an endpoint of one queue.
    pub fn new() -> Self {
        Self::with_queues(1)
    }

    /// Creates an endpoint of `count` queues.
    pub fn with_queues(queues: u16) -> Self {
        let (switch, routes) = Switch::new(queues);
        let queue = |route| LoopbackQueue {
            waiting: Waiting::default(),
            wire: Wire {
                route,
                ..Wire::default()
            },
        };
        Self {
            switch,
            queues: routes.into_iter().map(queue).collect(),
        }
    }
}

impl Default for Loopback {
    fn default() -> Self {
        Self::new()
    }
}

impl Wire {
    /// Delivers a packet, unless it is invalid. Returns `Pending`, and counts nothing, if there is no
    /// buffer.
    fn carry(
        &mut self,
        io: &mut QueueIo<'_>,
        packet: &TxPacket,
        segments: impl Iterator<Item = Segment> + Clone,
    ) -> TxStatus {
        let length = segments.clone().map(|s| u64::from(s.length)).sum();
        let status = match self.check(io.memory, packet, segments.clone(), length) {
            Ok(prepared) => match io.policy.map(|policy| self.judge(policy)) {
                None | Some(Ok(())) => self.deliver(io, segments, &prepared),
                Some(Err(status)) => status,
            },
            Err(status) => status,
        };
        self.counters.transmit.count(status, length);
        status
    }

    /// Checks a packet of `length` bytes and its memory; afterwards the head holds the first bytes to
    /// deliver.
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

    /// Checks the packet in the head against the policy. It counts as sent even if it may not be
    /// received.
    #[cold]
    fn judge(&mut self, policy: &Policy) -> Result<(), TxStatus> {
        let head = self.head.bytes();
        let [addresses, rest] = without_tag(head);
        let mut start = [0; ETHERNET_BYTES];
        let bytes = addresses.iter().chain(rest);
        start
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        let (refused, status) = match policy.check_sent(head) {
            Err(refused) => (refused, TxStatus::Dropped),
            Ok(()) => match policy.check_received(&start, tag_control(head)) {
                Err(refused) => (refused, TxStatus::Sent),
                Ok(()) => return Ok(()),
            },
        };
        self.counters.refused.count(refused);
        Err(status)
    }

    /// Writes a checked packet to a posted buffer of the queue that it is steered to.
    fn deliver(
        &mut self,
        io: &mut QueueIo<'_>,
        segments: impl Iterator<Item = Segment> + Clone,
        prepared: &Prepared,
    ) -> TxStatus {
        if self.route.is_own() {
            if io.rx.is_empty() {
                return TxStatus::Pending;
            }
            let (_, about) = self.examine(prepared);
            return self.fill(io, segments, prepared, about);
        }
        let (queue, about) = self.examine(prepared);
        if self.route.leads_here(queue) {
            let filled = self.fill(io, segments.clone(), prepared, about);
            if filled != TxStatus::Pending {
                return filled;
            }
        }
        self.pass(io, segments, prepared, queue, about)
    }

    /// Determines the metadata of the packet in the head, and its queue.
    fn examine(&self, prepared: &Prepared) -> (u16, About) {
        let frame = self.head.bytes();
        let layout = Layout::parse(frame);
        let destination = self.route.look(frame, layout.as_ref());
        let mut flags = rx_flags::classify(frame, layout.as_ref());
        if prepared.vnet.partial.is_some() {
            flags = rx_flags::with_good_transport_checksum(flags);
        }
        let tag = tag_control(frame);
        flags.set(RxFlags::VLAN, tag.is_some());
        let about = About {
            flags: flags | destination.flags,
            vlan_tci: tag.unwrap_or(0),
            hash: destination.hash,
        };
        (destination.queue, about)
    }

    /// Writes the packet to the first posted buffer that is in guest memory.
    fn fill(
        &mut self,
        io: &mut QueueIo<'_>,
        segments: impl Iterator<Item = Segment> + Clone,
        prepared: &Prepared,
        about: About,
    ) -> TxStatus {
        while let Some(buffer) = io.rx.front() {
            match self.write(io.memory, segments.clone(), prepared, about, &buffer) {
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

    /// Copies the packet for another queue. It waits if all packets are steered to one queue.
    fn pass(
        &mut self,
        io: &mut QueueIo<'_>,
        segments: impl Iterator<Item = Segment> + Clone,
        prepared: &Prepared,
        queue: u16,
        about: About,
    ) -> TxStatus {
        let parts = without_tag(self.head.bytes());
        let copied = self.head.copied();
        let rest = prepared.length.saturating_sub(copied);
        let memory = io.memory;
        let passed = self.route.pass(queue, about, io.woken, |bytes| {
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            let own = bytes.len();
            bytes.resize(own + rest, 0);
            Span::new(segments)
                .advance(copied as u64)
                .read(memory, &mut bytes[own..])
                .map(|_| ())
        });
        match passed {
            Ok(true) => TxStatus::Sent,
            Ok(false) if self.route.holds() => TxStatus::Pending,
            Ok(false) => {
                self.counters.receive.dropped += 1;
                TxStatus::Sent
            }
            Err(_) => TxStatus::MemoryFault,
        }
    }

    fn write(
        &mut self,
        memory: &GuestMemory,
        segments: impl Iterator<Item = Segment> + Clone,
        prepared: &Prepared,
        about: About,
        buffer: &Posted<'_>,
    ) -> Result<Received, Fault> {
        let copied = self.head.copied();
        let rest = prepared.length.saturating_sub(copied);
        let mut written = 0;
        let parts = without_tag(self.head.bytes());
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
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
        self.counters.receive.count(length, truncated);
        let mut flags = about.flags;
        flags.set(RxFlags::TRUNCATED, truncated);
        Ok(Received {
            // Fits: no packet is longer than `MAX_IP_BYTES` and its link header.
            length: length as u32,
            flags,
            vlan_tci: about.vlan_tci,
            hash: about.hash,
        })
    }
}

/// Removes a frame's tag, and reports it as metadata, as for a frame from any other link.
fn without_tag(head: &[u8]) -> [&[u8]; 2] {
    match tag_control(head) {
        Some(_) => [&head[..ADDRESS_BYTES], &head[ADDRESS_BYTES + TAG_BYTES..]],
        None => [head, &[]],
    }
}

impl LoopbackQueue {
    /// Retries packets that wait. Returns true if the budget ran out.
    fn try_again(&mut self, io: &mut QueueIo<'_>, budget: usize) -> bool {
        for _ in 0..budget {
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
}

impl Endpoint for Loopback {
    fn name(&self) -> String {
        "loopback".to_owned()
    }

    fn take_queues(&mut self) -> Vec<Box<dyn Queue>> {
        let queues = self.queues.drain(..);
        queues.map(|queue| Box::new(queue) as _).collect()
    }

    fn steer(&mut self, rss: Option<Arc<Rss>>) {
        self.switch.steer(rss);
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn checks_policy(&self) -> bool {
        true
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "kind": "loopback" })
    }
}

impl Queue for LoopbackQueue {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        self.wire.route.refresh();
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

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        let Wire {
            route, counters, ..
        } = &mut self.wire;
        route.refresh();
        // Half of the budget is for packets that arrive on this queue itself.
        let used = match route.is_shared() {
            true => route.take_in(io, &mut counters.receive, RECEIVE_BUDGET / 2),
            false => 0,
        };
        let more = self.try_again(io, RECEIVE_BUDGET - used);
        more || self.wire.route.has_more(io)
    }

    fn settle(&mut self, io: &mut QueueIo<'_>) {
        let Wire {
            route, counters, ..
        } = &mut self.wire;
        route.settle(io, &mut counters.receive);
    }

    fn cancel_receive(&mut self) {
        let Wire {
            route, counters, ..
        } = &mut self.wire;
        route.drop_waiting(&mut counters.receive);
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn cancel_transmit(&mut self) {
        self.waiting.clear();
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> &Counters {
        &self.wire.counters
    }
}

#[cfg(test)]
mod tests;
