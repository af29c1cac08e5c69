//! What the fuzz targets do with an input. Each is a function, so that the seeds are also
//! tests that need no fuzzer (`cargo test -p manatee-fuzz`).
//!
//! Inputs are programs: bytes that are read as actions, one after the other, until there
//! are no more.

pub mod control;
#[path = "../../../host/tests/attacks/description.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the suite of attacks"
)]
mod description;
pub mod device;
pub mod direct_abi;
pub mod frames;
pub mod guest;
#[path = "../../../host/tests/attacks/hostile.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the suite of attacks"
)]
mod hostile;
pub mod racing;
pub mod snapshot;
pub mod state;
pub mod vfio_user;
