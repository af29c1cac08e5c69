//! Runs components: the engine, its limits, and the imports of an instance.

pub mod bounds;
mod code;
mod deadline;
mod delayed;
mod direct;
mod engine;
mod exports;
mod failure;
mod gauges;
mod handshake;
mod imports;
mod instance;
mod limits;
mod linear_memory;
mod model;
mod pace;
mod port;
mod queue;
mod reaper;
mod scratch;
mod state;
mod sync;
mod trial;

pub use code::{Calls, PreparedComponent};
pub use delayed::Due;
#[cfg(feature = "compiler")]
pub use engine::settings;
pub use engine::{Runtime, RuntimeError};
pub use failure::Failure;
pub(crate) use gauges::{Gauges, PortGauges, QueueGauges};
pub use instance::Instance;
pub use limits::Limits;
pub use linear_memory::RevokeError;
pub use port::{InvalidPort, Port, PortState};
pub(crate) use queue::QueueState;
pub use state::{HostState, Phase};
pub use trial::prepare;
