//! The confinement of `manatee serve`: the kernel's view of its process and its
//! broker, how they end, and candidates that can't be compiled.

#[allow(dead_code)]
#[path = "../vfio_user/harness.rs"]
mod harness;

mod bomb;
mod commands;
mod endings;
mod facts;
mod links;
mod messages;
mod metrics;
mod process;
mod protocol;
mod report;
mod soak;
