//! Packets through a confined `manatee serve`, which the tests' own driver sends and
//! receives over vfio-user: captures, and endpoints.

#[allow(dead_code)]
#[path = "../vfio_user/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../jail/process.rs"]
mod process;

mod capture;
mod guest;
mod stream;
