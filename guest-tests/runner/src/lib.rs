//! The runner is the conformance suite as a program: it drives a device as a guest
//! does, and prints what is wrong.
//!
//! Compiled for wasm it is a component of the WIT world `manatee:testbed/runner`;
//! natively it has only the parts that need no device.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arguments;
pub mod bindings;
pub mod report;

#[cfg(target_arch = "wasm32")]
mod bench;
#[cfg(target_arch = "wasm32")]
mod device;
#[cfg(target_arch = "wasm32")]
mod output;
#[cfg(target_arch = "wasm32")]
mod wasm;
