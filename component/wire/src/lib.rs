//! What a MANA adapter and its driver exchange, one module a family.
//!
//! Every struct is laid out as the Linux header that its comment names
//! defines it; all integers are little-endian. Nothing here acts.

#![no_std]
#![forbid(unsafe_code)]
#![allow(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod bnic;
pub mod gdma;
pub mod hwc;
pub mod oob;
pub mod queue;
pub mod registers;
pub mod smc;

#[cfg(not(target_endian = "little"))]
compile_error!("the wire formats are read in place and need a little-endian target");
