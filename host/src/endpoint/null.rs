//! An endpoint that drops everything: for a port that is connected to nothing, and for measuring
//! all costs but those of an endpoint.

use std::os::fd::BorrowedFd;

use super::batch::TxBatch;
use super::counters::Counters;
use super::head::Head;
use super::headers::ETHERNET_BYTES;
use super::packet::{Offloads, TxPacket, TxStatus};
use super::policy::Policy;
use super::queue::{Endpoint, Queue, QueueIo};
use crate::memory::{Access, GuestMemory, Segment};

/// Discards what is transmitted, and never receives.
#[derive(Debug)]
pub struct Null {
    queues: u16,
}

/// A queue of a [`Null`].
#[derive(Debug, Default)]
pub struct NullQueue {
    counters: Counters,
}

impl Null {
    /// Creates an endpoint of one queue.
    pub fn new() -> Self {
        Self::with_queues(1)
    }

    /// Creates an endpoint of `count` queues.
    pub fn with_queues(queues: u16) -> Self {
        Self { queues }
    }
}

impl Default for Null {
    fn default() -> Self {
        Self::new()
    }
}

impl NullQueue {
    /// Accepts packets without reading them, but checks that they are in guest memory: a guest with
    /// wrong descriptors gets an error here too.
    fn swallow(
        &mut self,
        memory: &GuestMemory,
        policy: Option<&Policy>,
        packet: &TxPacket,
        segments: &[Segment],
    ) -> TxStatus {
        let (mut length, mut is_memory) = (0, true);
        // One pass: most packets have one segment.
        for segment in segments {
            let own = segment.length.into();
            length += own;
            is_memory &= memory.check(segment.address, own, Access::Read).is_ok();
        }
        let status = if !is_memory {
            TxStatus::MemoryFault
        } else if length < ETHERNET_BYTES as u64 {
            TxStatus::BadHeaders
        } else {
            policy.map_or(TxStatus::Sent, |policy| {
                self.check(memory, policy, packet, segments)
            })
        };
        self.counters.transmit.count(status, length);
        status
    }
}

impl NullQueue {
    /// Checks a packet against the policy.
    #[cold]
    fn check(
        &mut self,
        memory: &GuestMemory,
        policy: &Policy,
        packet: &TxPacket,
        segments: &[Segment],
    ) -> TxStatus {
        let mut head: Head = Head::default();
        if head.load(memory, segments.iter().copied()).is_err() {
            return TxStatus::MemoryFault;
        }
        if packet.offloads.contains(Offloads::INSERT_VLAN) {
            head.insert_tag(packet.vlan_tci);
        }
        match policy.check_sent(head.bytes()) {
            Ok(()) => TxStatus::Sent,
            Err(refused) => {
                self.counters.refused.count(refused);
                TxStatus::Dropped
            }
        }
    }
}

impl Endpoint for Null {
    fn name(&self) -> String {
        "null".to_owned()
    }

    fn take_queues(&mut self) -> Vec<Box<dyn Queue>> {
        let queues = 0..std::mem::take(&mut self.queues);
        let queue = |_| Box::new(NullQueue::default()) as _;
        queues.map(queue).collect()
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn checks_policy(&self) -> bool {
        true
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "kind": "null" })
    }
}

impl Queue for NullQueue {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        status.extend(
            batch
                .iter()
                .map(|(packet, segments)| self.swallow(io.memory, io.policy, packet, segments)),
        );
    }

    fn receive(&mut self, _: &mut QueueIo<'_>) -> bool {
        false
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::testing::{Guest, TX_AREA, plain};
    use crate::memory::tests::{NOWHERE, READ_ONLY, UNREACHABLE, segment};

    #[test]
    fn packets_vanish_but_must_have_been_there() {
        let (mut guest, mut null) = (Guest::new(), NullQueue::default());
        guest.post();
        let mut send = |at, length| guest.send_cut(&mut null, &[], plain(), &[segment(at, length)]);
        assert_eq!(send(TX_AREA, 60), TxStatus::Sent);
        assert_eq!(send(READ_ONLY, 60), TxStatus::Sent);
        assert_eq!(send(UNREACHABLE, 60), TxStatus::MemoryFault);
        assert_eq!(send(NOWHERE, 60), TxStatus::MemoryFault);
        assert_eq!(send(u64::MAX, u32::MAX), TxStatus::MemoryFault);
        assert_eq!(send(TX_AREA, 13), TxStatus::BadHeaders);
        assert!(!null.receive(&mut guest.io()));
        assert!(guest.received().is_empty());
        assert_eq!(null.counters.transmit.packets, 2);
        assert_eq!(null.counters.transmit.bytes, 120);
    }

    #[test]
    fn queues_are_as_many_as_were_asked_for() {
        assert_eq!(Null::new().take_queues().len(), 1);
        assert_eq!(Null::with_queues(64).take_queues().len(), 64);
    }
}
