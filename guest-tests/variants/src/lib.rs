//! Builds of the device for tests that need another one than the host embeds.

#![no_std]

extern crate alloc;

mod bomb;

pub use bomb::bomb;

/// The same device by another version, as its next release would be.
pub const NEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/next.wasm"));

/// The device with seeded faults, which a guest's traffic meets.
pub const FAULTY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/faulty.wasm"));
