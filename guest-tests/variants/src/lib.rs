//! Builds of the device for tests that need another one than the host embeds.

#![no_std]

extern crate alloc;

mod bomb;

pub use bomb::bomb;

/// The same device with another version, as its next release would be.
pub const NEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/next.wasm"));

/// The device with seeded faults, which a guest's traffic meets.
pub const FAULTY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/faulty.wasm"));

/// The device as it was when the contract had version 0.1.0: these exact bytes are
/// kept, because devices that run them must stay replaceable.
pub const FIRST: &[u8] = include_bytes!("../kept/device-0.1.0.wasm");

/// The SHA-256 digest of [`FIRST`], in hexadecimal.
pub const FIRST_DIGEST: &str = "67da3932525e46c62a0a17f3ed399db47c16e0f170b893cac42d990be1c8afa3";
