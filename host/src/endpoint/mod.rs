//! Packet endpoints: where a port's packets go and come from.
//!
//! An [`Endpoint`] works in guest memory: it is given the segments of a packet
//! or of a posted buffer and moves the bytes there itself, so that payload
//! never passes through the sandbox.

mod checksum;
mod counters;
mod groups;
mod head;
mod headers;
mod loopback;
mod null;
mod offload;
mod packet;
mod rx_flags;
mod rx_queue;
mod tap;
#[cfg(test)]
mod testing;
mod vnet;

pub use crate::memory::Segment;
pub use counters::{Counters, RxCounters, TxCounters};
pub use groups::Groups;
pub use loopback::Loopback;
pub use null::Null;
pub use packet::{Offloads, RxBuffer, RxFlags, RxPacket, TxCompletion, TxPacket, TxStatus};
pub use rx_queue::{Posted, Received, RxQueue};
pub use tap::{InterfaceState, LinkWatch, Tap, TapError, TapLink};

use std::os::fd::BorrowedFd;

use crate::memory::GuestMemory;

/// The most packets that one [`Endpoint::receive`] takes, so that one port
/// can't keep the device from its other work.
pub const RECEIVE_BUDGET: usize = 64;

/// What an endpoint works on.
#[derive(Debug)]
pub struct PortIo<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// The receive buffers that the device posted.
    pub rx: &'a mut RxQueue,
    /// Where the endpoint notes what it finished.
    pub done: &'a mut Completions,
}

/// What an endpoint finished, for the host to tell the device.
#[derive(Debug, Default)]
pub struct Completions {
    /// Packets that were written to receive buffers, in posting order.
    pub received: Vec<RxPacket>,
    /// Ends of transmits that were [`TxStatus::Pending`], in order.
    pub transmitted: Vec<TxCompletion>,
}

impl Completions {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty() && self.transmitted.is_empty()
    }
}

/// Packets to transmit: their segments lie in `segments` in the same order.
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

    /// The packets with their segments, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a TxPacket, &'a [Segment])> + use<'a> {
        let mut rest = self.segments;
        self.packets.iter().map(move |packet| {
            let (own, later) = rest.split_at(packet.segments.into());
            rest = later;
            (packet, own)
        })
    }

    /// Number of packets.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

/// Where a port's packets go and come from.
///
/// All methods are called by one thread at a time, with the device locked.
/// None may block.
pub trait Endpoint: Send {
    /// What this is, for people: `tap=tap0`.
    fn name(&self) -> String;

    /// Takes packets in order, pushing one status each. A packet whose status
    /// is [`TxStatus::Pending`] is finished later by way of
    /// [`Completions::transmitted`]; pending packets finish in order.
    fn transmit(&mut self, io: &mut PortIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>);

    /// Writes up to [`RECEIVE_BUDGET`] waiting packets to posted buffers, and
    /// finishes pending transmits. Returns true if it stopped for the budget
    /// and should be called again.
    fn receive(&mut self, io: &mut PortIo<'_>) -> bool;

    /// Transmits that are [`TxStatus::Pending`].
    fn pending(&self) -> usize {
        0
    }

    /// Gives up pending transmits: their memory is not touched any more.
    fn cancel(&mut self);

    /// A descriptor that becomes readable when [`receive`](Self::receive) has
    /// something to do, for edge-triggered polling. None if packets only ever
    /// come out of [`transmit`](Self::transmit).
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Largest layer-3 packet that the other side carries, if it says.
    fn mtu(&self) -> Option<u16>;

    /// Counters and state, for `manatee inspect`.
    fn inspect(&self) -> serde_json::Value;
}
