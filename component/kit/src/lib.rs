//! What any sandboxed device needs, whatever it emulates.
//!
//! A device implements [`Adapter`] over the [`Platform`] that it runs on: the
//! WIT world's imports in wasm, plain memory in a native test. Guest memory is
//! reached through a [`window::Window`] or by copies, and [`ring::Ring`] is the
//! memory of a queue over either. `export_adapter` makes a device a component
//! of the WIT world `manatee:device/adapter`.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod adapter;
pub mod bindings;
#[cfg(all(target_arch = "wasm32", feature = "component"))]
pub mod component;
pub mod envelope;
pub mod fault_counter;
pub mod platform;
pub mod ring;
pub mod table;
pub mod window;

pub use adapter::Adapter;
pub use fault_counter::FaultCounter;
pub use platform::Platform;

/// Size of a guest page in bytes.
pub const PAGE_SIZE: u32 = 4096;
