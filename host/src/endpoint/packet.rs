//! Packets and receive buffers: records of the contract (`wit/device.wit`, interface `types`)
//! that device and endpoint exchange.

use bitflags::bitflags;

use crate::memory::Fault;

bitflags! {
    /// The offloads that an endpoint performs on a packet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Offloads: u8 {
        /// The packet is IPv4.
        const IPV4 = 1 << 0;
        /// The packet is IPv6.
        const IPV6 = 1 << 1;
        /// Fill in the IPv4 header checksum.
        const IP_CHECKSUM = 1 << 2;
        /// Fill in the TCP checksum.
        const TCP_CHECKSUM = 1 << 3;
        /// Fill in the UDP checksum.
        const UDP_CHECKSUM = 1 << 4;
        /// Cut the packet into TCP segments.
        const TCP_SEGMENTATION = 1 << 5;
        /// Insert an 802.1Q tag behind the MAC addresses.
        const INSERT_VLAN = 1 << 6;
    }
}

bitflags! {
    /// The metadata of a received packet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RxFlags: u16 {
        /// The packet did not fit; the buffer holds its beginning.
        const TRUNCATED = 1 << 0;
        /// A segment of the buffer is not in guest memory; the packet is lost.
        const MEMORY_FAULT = 1 << 1;
        /// The packet is IPv4.
        const IPV4 = 1 << 2;
        /// The packet is IPv6.
        const IPV6 = 1 << 3;
        /// It carries TCP.
        const TCP = 1 << 4;
        /// It carries UDP.
        const UDP = 1 << 5;
        /// The IPv4 header checksum is right (set for IPv6, which has none).
        const IP_CHECKSUM_GOOD = 1 << 6;
        /// The IPv4 header checksum is wrong.
        const IP_CHECKSUM_BAD = 1 << 7;
        /// The TCP or UDP checksum is right.
        const L4_CHECKSUM_GOOD = 1 << 8;
        /// The TCP or UDP checksum is wrong.
        const L4_CHECKSUM_BAD = 1 << 9;
        /// The destination is a multicast address other than broadcast.
        const MULTICAST = 1 << 10;
        /// The destination is the broadcast address.
        const BROADCAST = 1 << 11;
        /// An 802.1Q tag was removed from the frame.
        const VLAN = 1 << 12;
        /// The hash is of the IP addresses.
        const HASH_L3 = 1 << 13;
        /// The hash is of the IP addresses and the ports.
        const HASH_L4 = 1 << 14;
    }
}

/// A packet to transmit. It consists of the next `segments` of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxPacket {
    /// The device's id for it while it is in flight.
    pub id: u32,
    /// Number of segments, at least 1.
    pub segments: u16,
    /// Offset of the TCP or UDP header in bytes, 0 if unknown.
    pub l4_offset: u16,
    /// TCP payload bytes a segment, for [`Offloads::TCP_SEGMENTATION`].
    pub segment_size: u16,
    /// Tag control information for [`Offloads::INSERT_VLAN`].
    pub vlan_tci: u16,
    /// The requested offloads.
    pub offloads: Offloads,
}

/// The outcome of a transmit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TxStatus {
    /// The endpoint has it; its guest memory is no longer used.
    Sent,
    /// The endpoint still reads its guest memory.
    Pending,
    /// The endpoint dropped it, as a full wire would.
    Dropped,
    /// A segment is not in guest memory.
    MemoryFault,
    /// The frame is longer than the port carries.
    TooLong,
    /// The headers do not fit the requested offloads.
    BadHeaders,
}

impl From<Fault> for TxStatus {
    fn from(_: Fault) -> Self {
        Self::MemoryFault
    }
}

/// The completion of a transmit that was [`TxStatus::Pending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxCompletion {
    /// The packet's id.
    pub id: u32,
    /// Any status but [`TxStatus::Pending`].
    pub status: TxStatus,
}

/// A receive buffer. It consists of the next `segments` of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxBuffer {
    /// The device's id for it while the host holds it.
    pub id: u32,
    /// Number of segments, at least 1.
    pub segments: u16,
}

/// A packet that was written to a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxPacket {
    /// The buffer that holds it.
    pub id: u32,
    /// Length of the frame in bytes, even if it did not fit.
    pub length: u32,
    /// The tag control information of a tag that was removed.
    pub vlan_tci: u16,
    /// Its flags.
    pub flags: RxFlags,
    /// The hash, with [`RxFlags::HASH_L3`] or [`RxFlags::HASH_L4`].
    pub hash: u32,
}
