//! Seeds faults into the device, one at a time, and shows which of them the
//! conformance suite catches.
//!
//! The faults are data (`faults.toml`): the device holds no fault and no
//! switch for one. They are applied to a copy of its source.

pub mod fault;
pub mod report;
pub mod scratch;
pub mod trial;
