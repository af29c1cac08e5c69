//! The format in which a device is handed over.

mod pack;
mod records;
mod unpack;

pub use pack::{pack, pack_device};
pub use records::{RegionState, State, VectorState};
pub use unpack::{Named, assemble, unpack};
