//! The testbed: a device's imports, in wasm memory.
//!
//! Compiled for wasm it is a component of the WIT world `manatee:testbed/testbed`, around
//! the model of a host that every test uses (`manatee-world`).

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod bindings;
#[cfg(target_family = "wasm")]
mod wasm;
