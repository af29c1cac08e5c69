//! The formats that a MANA adapter and its driver exchange, one module for each
//! family.
//!
//! Every struct has the layout of the Linux struct that its comment names; all
//! integers are little-endian. There is no behaviour here.

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
