//! Manatee: a virtual network adapter as a sandboxed WebAssembly component.

pub mod check;
mod closer;
pub mod component;
pub mod contract;
pub mod control;
pub mod device;
pub mod endpoint;
pub mod interrupt;
pub mod memory;
pub mod pci;
mod precompiled;
pub mod ration;
pub mod runtime;
mod socket;
pub mod vfio_user;
