//! The device's component, as bytes: what the host embeds, and what the tests
//! in wasm run.

#![no_std]

/// The component. With `MANATEE_COMPONENT=FILE.wasm` at build time, that file.
pub const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/device.wasm"));
