//! The MANA network adapter: the GDMA hardware channel and queues, and the
//! basic NIC on top.
//!
//! [`adapter::Device`] is the whole adapter, generic over the
//! [`Platform`](device_kit::Platform) it runs on. Compiled for wasm it is a component of
//! the WIT world `manatee:device/adapter`; compiled natively it is a library
//! for tests, fuzzing and benchmarks.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod adapter;
pub mod bnic;
#[cfg(feature = "faults")]
pub mod faults;
pub mod gdma;
pub mod hwc;
#[allow(missing_docs)]
pub mod state;

#[cfg(all(target_arch = "wasm32", feature = "component"))]
#[allow(unsafe_code)]
mod export {
    use crate::adapter::Device;
    device_kit::export_adapter!(Device);
}
