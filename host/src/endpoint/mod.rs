//! Packet endpoints: the destination and the source of a port's packets.
//!
//! An [`Endpoint`] has one or more [`Queue`]s, which work in guest memory: each gets the
//! segments of a packet or of a posted buffer and copies the bytes itself, so that payload
//! never passes through the sandbox.

mod batch;
// Some modules have parts that only a TAP uses.
#[cfg_attr(not(feature = "tap"), allow(dead_code))]
mod checksum;
mod completions;
mod counters;
mod crossing;
mod groups;
#[cfg_attr(not(feature = "tap"), allow(dead_code))]
mod head;
mod headers;
mod loopback;
mod null;
mod offload;
mod packet;
mod policy;
mod queue;
mod queue_set;
mod rss;
#[cfg_attr(not(feature = "tap"), allow(dead_code))]
mod rx_flags;
mod rx_queue;
mod segmentation;
mod stream;
#[cfg(feature = "tap")]
mod tap;
#[cfg(test)]
mod testing;
mod toeplitz;
#[cfg_attr(not(feature = "tap"), allow(dead_code))]
mod vnet;
mod waiting;
mod watched;

pub use crate::memory::Segment;
pub use batch::{TxBatch, UnevenBatch};
pub use completions::Completions;
pub use counters::{Counters, RxCounters, TxCounters};
pub use groups::Groups;
pub use loopback::Loopback;
pub use null::Null;
pub use packet::{Offloads, RxBuffer, RxFlags, RxPacket, TxCompletion, TxPacket, TxStatus};
pub use policy::{Guarded, InvalidVlans, Policy, Refused, RefusedCounters, Unguardable, Vlans};
pub use queue::{Endpoint, EndpointView, Queue, QueueIo, RECEIVE_BUDGET, Single};
pub use queue_set::{MAX_QUEUES, QueueSet};
pub use rss::{Destination, HashTypes, InvalidSteering, Rss, Steering};
pub use rx_queue::{Posted, Received, RxQueue};
pub use stream::{Stream, StreamError, StreamLink};
#[cfg(feature = "tap")]
pub use tap::{InterfaceState, LinkWatch, Tap, TapError, TapLink};
pub use toeplitz::{KEY_BYTES, Toeplitz};
pub use waiting::Waiting;
pub use watched::{Direction, Passed, Watcher};
pub(crate) use watched::{unwatch, watch};
