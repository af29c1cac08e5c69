//! The model of the host that the tests of a device use.
//!
//! [`World`] is what a device sees of its host: guest memory, ports with a wire each, the
//! interrupt controller, the log, and what the host remembers in case the device fails. It
//! implements the imports as `wit/device.wit` describes them, and records violations as
//! offences. A test is at the other end: it plans how transmits end, has frames arrive,
//! revokes memory, and inspects what the device did.
//!
//! In the native benches a `World` is the device's platform, where an offence is a panic;
//! it has windows, and can make the device fail. In wasm the testbed exports a `World` as
//! the imports of a component, and a runner queries the offences.

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
