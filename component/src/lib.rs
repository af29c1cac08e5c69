//! The MANA network adapter: the GDMA hardware channel and queues, and the
//! basic NIC on top.
//!
//! [`device::Device`] is the whole adapter, generic over the
//! [`platform::Platform`] it runs on. Compiled for wasm it is a component of
//! the WIT world `manatee:device/adapter`; compiled natively it is a library
//! for tests, fuzzing and benchmarks.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bindings;
pub mod caution;
pub mod cq;
pub mod device;
pub mod dma_region;
pub mod eq;
#[cfg(feature = "faults")]
pub mod faults;
pub mod hwc;
pub mod nic;
pub mod platform;
pub mod queues;
pub mod requests;
pub mod ring;
#[allow(missing_docs)]
pub mod saved;
pub mod smc;
pub mod table;
#[cfg(all(target_arch = "wasm32", feature = "component"))]
mod wasm;
pub mod window;
#[allow(missing_docs)]
pub mod wire;
pub mod wq;
