//! Builds of the device for tests that need another one than the host embeds.

#![no_std]

/// The same device by another version, as its next release would be.
pub const NEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/next.wasm"));
