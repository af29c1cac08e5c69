//! The testbed: what a device imports, in plain wasm memory, with every fault
//! that a host could answer with.
//!
//! [`world::World`] is all of it; compiled for wasm it is a component of the
//! WIT world `manatee:testbed/testbed`.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bindings;
pub mod memory;
pub mod port;
#[cfg(target_arch = "wasm32")]
mod wasm;
pub mod world;
