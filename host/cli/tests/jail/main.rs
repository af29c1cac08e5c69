//! The confinement of `manatee serve`: what the kernel says of its process and its
//! broker, how they end, and what candidates that can't be compiled do to them.

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
