//! Packets through a confined `manatee serve`, which a driver of the tests' own sends and
//! receives by vfio-user: what is captured of them, and by which endpoints they go.

#[allow(dead_code)]
#[path = "../vfio_user/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../jail/process.rs"]
mod process;

mod capture;
mod guest;
mod stream;
