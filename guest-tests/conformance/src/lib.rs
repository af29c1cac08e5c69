//! The requirements of a MANA device, from the Linux driver's point of view.
//!
//! The [requirements](suite::requirements) are written once, against a
//! [`bench::Bench`]: a device with a guest's memory, an interrupt controller and a wire
//! around it. A bench is a native device, a component in wasm, or a device in the host,
//! with ring windows and without.
//!
//! ```
//! # use manatee_conformance::{bench::Workshop, suite};
//! fn check(workshop: &impl Workshop) -> bool {
//!     let report = suite::run(workshop, suite::select(["hwc"]), |requirement, outcome| {
//!         // A line for each as it ends.
//!         let _ = (requirement.name, outcome);
//!     });
//!     report.is_ok()
//! }
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bench;
pub mod driver;
pub mod failure;
pub mod guest;
#[cfg(feature = "native")]
pub mod native;
pub mod suite;

pub use manatee_world as world;
