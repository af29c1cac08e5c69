//! The model of the host that the tests of a device use.
//!
//! [`World`] is what a device sees of its host: guest memory, ports with a wire behind
//! each, the interrupt controller, the log, and what the host remembers in case the device
//! fails. It does what `wit/device.wit` says of the imports, and records as an offence what
//! a device must not do. A test is at the other end: it plans how transmits end, has frames
//! arrive, takes memory away, and looks at what the device did.
//!
//! The native benches give a `World` to the device as its platform, where an offence is a
//! panic; it has windows, and fails the device when a test wants that. In wasm the testbed
//! exports a `World` as the imports of a component, and a runner asks for the offences.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(any(test, not(target_family = "wasm")))]
extern crate std;

pub mod memory;
#[cfg(not(target_family = "wasm"))]
mod platform;
pub mod port;
mod world;

pub use memory::{MEMORY_SIZE, Memory};
pub use port::{Port, Queue, Transmitted, hash_of, untag};
pub use world::{Done, Poison, World};

/// The flags, and other types of the contract that the kit does not name elsewhere.
pub mod contract {
    pub use device_kit::bindings::manatee::device::packet_endpoint::{
        HashTypes, LinkStatistics, Steering,
    };
    pub use device_kit::bindings::manatee::device::types::Features;
}
