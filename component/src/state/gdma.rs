//! The saved queues, regions, and hardware channel.

use alloc::vec::Vec;

use device_kit::ring;
use minicbor::{Decode, Encode};

use super::pages::Pages;
use crate::limits::Shape;

/// A hardware channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hwc {
    /// Ids of its event, completion, send and receive queue.
    #[n(0)]
    pub queues: [u32; 4],
    /// The driver's capabilities.
    #[n(1)]
    pub driver_caps: u64,
    /// Milliseconds that the driver waits for an answer.
    #[n(2)]
    pub timeout_ms: u32,
    /// Requests answered, and how many of them with an error.
    #[n(3)]
    pub answered: (u64, u64),
    /// Requests that could not be answered.
    #[n(4)]
    pub unanswerable: u64,
}

/// Registered memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Regions {
    /// Number of the last region.
    #[n(0)]
    pub sequence: u64,
    /// Regions that no queue uses.
    #[n(1)]
    pub regions: Vec<Region>,
}

/// A region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Region {
    /// The number in its handle.
    #[n(0)]
    pub number: u64,
    /// In bytes.
    #[n(1)]
    pub length: u64,
    /// In bytes.
    #[n(2)]
    pub offset_in_page: u32,
    /// Pages that it will have.
    #[n(3)]
    pub page_count: u32,
    /// Pages that it has.
    #[n(4)]
    pub pages: Pages,
}

/// All queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Queues {
    #[n(0)]
    pub eqs: Vec<Eq>,
    #[n(1)]
    pub cqs: Vec<Cq>,
    #[n(2)]
    pub sqs: Vec<Wq>,
    #[n(3)]
    pub rqs: Vec<Wq>,
    #[n(4)]
    pub bad_doorbells: u64,
    #[n(5)]
    pub eq_overruns: u64,
}

/// A ring that the driver consumes. Counts are modulo the number of entries times 8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ring {
    #[n(0)]
    pub pages: Pages,
    /// Entries posted.
    #[n(1)]
    pub producer: u32,
    /// Entries consumed.
    #[n(2)]
    pub consumer: u32,
    /// Whether the driver asked for an event.
    #[n(3)]
    pub is_armed: bool,
    /// Entries that were lost for lack of room.
    #[n(4)]
    pub lost: u64,
    #[n(5)]
    pub bad_doorbells: u64,
}

impl Ring {
    /// Saves the fields that all rings have.
    pub fn of(memory: &ring::Ring, (producer, consumer): (u32, u32), is_armed: bool) -> Self {
        Self {
            pages: Pages::from_addresses(memory.pages()),
            producer,
            consumer,
            is_armed,
            ..Self::default()
        }
    }
}

impl Region {
    /// Returns the size and offset that the driver requested.
    pub fn shape(&self) -> Shape {
        Shape {
            length: self.length,
            offset_in_page: self.offset_in_page,
            page_count: self.page_count,
        }
    }
}

/// An event queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Eq {
    #[n(0)]
    pub id: u32,
    #[n(1)]
    pub ring: Ring,
    /// MSI-X vector.
    #[n(2)]
    pub vector: u16,
    /// The urgency of an interrupt for the pending events: whether some are not
    /// moderated, and within how many microseconds those that are; absent means that none is
    /// moderated. Earlier builds ignore it.
    #[n(3)]
    pub due: Option<(bool, Option<u16>)>,
    /// The same for the interrupt that was raised since the last doorbell; absent means
    /// none. Earlier builds ignore it.
    #[n(4)]
    pub raised: Option<(bool, Option<u16>)>,
}

/// A completion queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Cq {
    #[n(0)]
    pub id: u32,
    #[n(1)]
    pub ring: Ring,
    /// Event queue that it reports to.
    #[n(2)]
    pub eq: Option<u32>,
    /// For the newest CQEs that the driver has not consumed, oldest first: the end of
    /// the completed WQE in units of 32 bytes, as the distance from the one before, and
    /// how many in a row have that distance.
    #[n(3)]
    pub completed: Vec<(i32, u32)>,
    /// How many entries certainly fit; absent means all. Earlier builds neither write
    /// nor read it.
    #[n(4)]
    pub room: Option<u32>,
    /// The completions that gather before there is an interrupt, and the microseconds for
    /// which they do; absent means no moderation. Earlier builds ignore it.
    #[n(5)]
    pub moderation: Option<(u8, u16)>,
    /// Whether the interrupt for its event may still wait; absent means no. Earlier builds
    /// ignore it.
    #[n(6)]
    pub is_held: Option<bool>,
}

/// A send or receive queue. Positions are in bytes modulo 2^32.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Wq {
    #[n(0)]
    pub id: u32,
    #[n(1)]
    pub pages: Pages,
    /// Position up to which WQEs are posted.
    #[n(2)]
    pub producer: u32,
    /// Position up to which WQEs are read.
    #[n(3)]
    pub read: u32,
    /// Position up to which WQEs are completed.
    #[n(4)]
    pub completed: u32,
    #[n(5)]
    pub bad_doorbells: u64,
    #[n(6)]
    pub malformed: u64,
    /// Whether the driver announced work since a completion was last posted; absent
    /// means no. Earlier builds ignore it.
    #[n(7)]
    pub announced: Option<bool>,
}
