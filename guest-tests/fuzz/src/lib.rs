//! The fuzz targets as functions, so that the seeds are also tests that need no fuzzer
//! (`cargo test -p manatee-fuzz`).
//!
//! Inputs are programs: bytes that are decoded as a sequence of actions.

pub mod control;
pub mod device;
pub mod direct_abi;
pub mod frames;
pub mod guest;
pub mod racing;
pub mod snapshot;
pub mod state;
pub mod vfio_user;
