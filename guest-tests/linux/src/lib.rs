//! Boots an unmodified Linux in QEMU on the device, or on one of QEMU's own, and
//! checks its network from both ends.
//!
//! Everything happens in namespaces that the harness makes for itself (see
//! [`sandbox`]): no interface, process or file is left behind, and no packet
//! leaves them.

pub mod agent;
pub mod assets;
pub mod checks;
pub mod control;
pub mod deadline;
pub mod image;
pub mod kernel;
pub mod lab;
pub mod modules;
pub mod netns;
pub mod opening;
pub mod process;
pub mod qemu;
pub mod report;
pub mod round_trips;
pub mod sandbox;
pub mod serve;
pub mod spread;
pub mod stage;
pub mod tcp;
pub mod traffic;
pub mod transcript;
