//! What the fuzz targets do with an input. Each is a function, so that the seeds are also
//! tests that need no fuzzer (`cargo test -p manatee-fuzz`).
//!
//! Inputs are programs: bytes that are read as actions, one after the other, until there
//! are no more.

pub mod control;
pub mod device;
pub mod direct_abi;
pub mod frames;
pub mod guest;
pub mod racing;
pub mod snapshot;
pub mod state;
pub mod vfio_user;
