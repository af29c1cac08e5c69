//! A device: an instance of a component with its PCI function, guest memory
//! and endpoints, behind one lock.
//!
//! Whoever holds the lock owns the device: the VMM's thread for register
//! accesses and memory changes, the device's own thread for packets that
//! arrive, unless the VMM's is at it anyway. Each runs the device until it has
//! nothing left to do.

mod builder;
mod doorbells;
mod error;
mod guard;
mod hand_over;
mod handed_memory;
mod handle;
mod inner;
mod inspect;
mod life;
mod live;
mod poller;
mod recovery;
mod registers;
mod rehearsal;
mod replace;
mod report;
mod snapshot;
mod swap;
mod sync;
mod telemetry;
mod thread;
mod vmm;
mod wakes;
mod work;

pub use crate::runtime::{Failure, InvalidPort, Limits, Port};
pub use builder::DeviceBuilder;
pub use error::{DeviceError, MAX_RATE_MBPS, RateError, WatchError};
pub(crate) use hand_over::{DeviceState, Died, PortPast, QueuePast};
pub use hand_over::{GiveAwayError, TakeOverError};
pub use handle::Device;
pub use recovery::CrashPolicy;
pub use rehearsal::Rehearsal;
pub use report::{Event, Recovery, SwapReport};
pub use snapshot::SnapshotError;
pub use swap::{SwapError, SwapOptions};
pub(crate) use telemetry::Past;
pub use telemetry::{Condition, PortTotals, Totals};
