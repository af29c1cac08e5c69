//! The driver's side, as Linux writes it.

use crate::bench::Bench;

/// A driver, and the device that it drives.
pub struct Driver<'a> {
    /// The device and the world around it.
    pub bench: &'a mut dyn Bench,
}

impl<'a> Driver<'a> {
    /// A driver that has done nothing yet.
    pub fn new(bench: &'a mut dyn Bench) -> Self {
        Self { bench }
    }
}
