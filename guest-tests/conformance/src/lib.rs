//! What a MANA device must do, from the Linux driver's point of view.
//!
//! The requirements are written once, against a [`bench::Bench`]: a device
//! with a guest's memory, an interrupt controller and a wire around it. A
//! bench is a native device, a component in plain wasm, or a device in the
//! host, with ring windows and without.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bench;
