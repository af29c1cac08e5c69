//! What the device needs from its environment: the WIT world's imports in wasm,
//! plain memory in a native test.

use alloc::vec::Vec;
use core::fmt;

pub use crate::bindings::exports::manatee::device::device::{
    DeviceEvent, HandedOver, Observations, RegisterWrite,
};
pub use crate::bindings::manatee::device::interrupts::Delayed;
pub use crate::bindings::manatee::device::log::Level;
pub use crate::bindings::manatee::device::packet_endpoint::{HashTypes, LinkStatistics, Steering};
pub use crate::bindings::manatee::device::types::{
    Features, Offloads, RxBuffer, RxFlags, RxPacket, Segment, TxCompletion, TxStatus,
};
use crate::window::Window;

/// The error of an access to addresses that are not guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError;

/// A packet to transmit: the WIT world's `tx-packet`, as the canonical ABI lays
/// it out in memory, so that a batch need not be copied on its way out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxPacket {
    /// Its id while it is in flight.
    pub id: u32,
    /// Number of segments, at least 1.
    pub segments: u16,
    /// Offset of the TCP or UDP header from the start of the frame in bytes, 0
    /// if unknown.
    pub l4_offset: u16,
    /// TCP payload bytes a segment, for a large send.
    pub segment_size: u16,
    /// Tag control information of a tag to insert.
    pub vlan_tci: u16,
    /// The offloads to apply.
    pub offloads: Offloads,
}

impl TxPacket {
    /// Creates a packet whose offloads need no parameters.
    #[inline]
    pub fn with_offloads(id: u32, segments: u16, offloads: Offloads) -> Self {
        Self {
            id,
            segments,
            l4_offset: 0,
            segment_size: 0,
            vlan_tci: 0,
            offloads,
        }
    }
}

/// What became of a transmitted batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransmitResult {
    /// One status a packet, or empty if every one was sent.
    pub statuses: Vec<TxStatus>,
    /// Packets to a multicast address other than broadcast, and their bytes.
    pub multicast: (u32, u64),
    /// Packets to the broadcast address, and their bytes.
    pub broadcast: (u32, u64),
}

/// The environment of a device. The methods are those of the WIT imports; see
/// there for what they promise.
pub trait Platform {
    /// Copies from guest memory, all or nothing.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if part of the range is not guest memory.
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies to guest memory, all or nothing.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if part of the range is not guest memory.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError>;

    /// Maps pages contiguously, `repeats` times in a row. Returns None if
    /// windows are unavailable; the device uses `read` and `write` then.
    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window>;

    /// Unmaps a window.
    fn unmap_window(&mut self, window: Window);

    /// Raises MSI-X vectors.
    fn raise(&mut self, vectors: &[u16]);

    /// Raises MSI-X vectors after a delay, or together with one that is raised sooner.
    ///
    /// Like every method that belongs to a feature, it is called only where the
    /// feature was agreed on; a platform without it need not implement it.
    fn raise_within(&mut self, vectors: &[Delayed]) {
        unreachable!("{vectors:?} are raised later without the feature");
    }

    /// Hands over packets to transmit.
    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult;

    /// Hands over receive buffers; returns how many were taken.
    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32;

    /// Takes back every receive buffer of a queue.
    fn cancel_receive(&mut self, port: u32, queue: u32);

    /// Gives up the pending transmits of a queue.
    fn cancel_transmit(&mut self, port: u32, queue: u32);

    /// Sets how packets find their receive queue from now on.
    fn steer(&mut self, port: u32, steering: &Steering) {
        unreachable!("port {port} is steered by {steering:?} without the feature");
    }

    /// Limits what a port sends, in Mbit/s; None removes the limit.
    fn limit_rate(&mut self, port: u32, mbps: Option<u32>) {
        unreachable!("port {port} is limited to {mbps:?} Mbit/s without the feature");
    }

    /// Returns the counters of a port's link.
    fn statistics(&mut self, port: u32) -> LinkStatistics {
        unreachable!("the counters of port {port} are read without the feature");
    }

    /// Notes that the configuration changed, which a successor could not find
    /// out by itself after a failure.
    fn changed(&mut self);

    /// Announces the WQE, by an id, that the device works on next and may fail
    /// on.
    fn attempt(&mut self, entry: u64);

    /// Writes a line to the log.
    fn log(&mut self, level: Level, message: fmt::Arguments<'_>);
}
