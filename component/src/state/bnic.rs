//! The saved NIC, and the handles that drivers and states use.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};

/// The NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Nic {
    #[n(0)]
    pub registered: bool,
    /// Number of the last work queue object.
    #[n(1)]
    pub sequence: u32,
    /// In the order of the host's ports.
    #[n(2)]
    pub vports: Vec<Vport>,
    #[n(3)]
    pub objects: Vec<Object>,
}

/// A vport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Vport {
    /// In transmission order.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub mac: [u8; 6],
    #[n(1)]
    pub mtu: u16,
    #[n(2)]
    pub tx_enabled: bool,
    #[n(3)]
    pub steering: Steering,
    #[n(4)]
    pub serial_no: u32,
    #[n(5)]
    pub filter_to_vtl0: bool,
    /// The counters of `struct mana_query_gf_stat_resp`, in its order.
    #[n(6)]
    pub stats: Vec<u64>,
    #[n(7)]
    pub faults: u64,
    /// Whether the link was up when the driver was last notified.
    #[n(8)]
    pub link_up: bool,
    /// The transmit limit in Mbit/s, if there is one. Earlier builds ignore it.
    #[n(9)]
    pub clamp: Option<u32>,
}

/// The steering of received packets to queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Steering {
    #[n(0)]
    pub enabled: bool,
    #[n(1)]
    pub rss: bool,
    #[n(2)]
    pub default_object: Option<u64>,
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub hash_key: Vec<u8>,
    /// Handles.
    #[n(4)]
    pub table: Vec<u64>,
    /// Whether packets may share a completion; absent means no. Earlier builds ignore
    /// it.
    #[n(5)]
    pub coalesces: Option<bool>,
}

/// A work queue object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Object {
    /// The number in its handle.
    #[n(0)]
    pub number: u32,
    /// Index of its vport.
    #[n(1)]
    pub vport: u32,
    /// Number among the vport's queues of its direction.
    #[n(2)]
    pub queue: u32,
    /// Id of the send or receive queue.
    #[n(3)]
    pub wq: u32,
    /// Id of the completion queue.
    #[n(4)]
    pub cq: u32,
    /// Transmits that were read and not completed, in order, if it is a send object.
    #[n(5)]
    pub in_flight: Option<Vec<InFlight>>,
    /// Buffers that were read and not completed, in order, if it is a receive object.
    #[n(6)]
    pub posted: Option<Vec<Posted>>,
    /// Soon after a failure: the end of the last WQE whose packet was already handed
    /// over.
    #[n(7)]
    pub handed_over: Option<u32>,
}

/// Tag in every object handle, and in no other.
const OBJECT_TAG: u64 = 0x4f42 << 48;

/// Returns the handle of the object with a number.
pub fn object_handle(number: u32) -> u64 {
    OBJECT_TAG | u64::from(number)
}

/// Returns the number of the object with a handle. None if it is not an object's
/// handle.
pub fn object_number(handle: u64) -> Option<u32> {
    u32::try_from(handle ^ OBJECT_TAG).ok()
}

impl Object {
    /// Returns its handle.
    pub fn handle(&self) -> u64 {
        object_handle(self.number)
    }
}

/// A transmit that was read and not completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct InFlight {
    /// Length of its WQE in units of 32 bytes.
    #[n(0)]
    pub units: u32,
    /// Bytes of the packet.
    #[n(1)]
    pub length: u32,
    /// Whether the completion is suppressed on success.
    #[n(2)]
    pub suppress: bool,
    /// Type of the completion, once known.
    #[n(3)]
    pub outcome: Option<u8>,
}

/// A buffer that was read and not completed: the length of its WQE in units of 32
/// bytes, negative if the WQE is malformed and the host does not hold the buffer.
pub type Posted = i32;
