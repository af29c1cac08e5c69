//! The resource limits of a device.

use std::time::Duration;

/// The resource limits of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory in bytes, windows included.
    pub memory: usize,
    /// Longest that one call may run.
    pub deadline: Duration,
    /// Whether there are ring windows; without, the device copies.
    pub windows: bool,
    /// Whether a component that is one module is called without wasmtime's component model, which
    /// takes an eighth of the time.
    pub direct: bool,
}

impl Default for Limits {
    /// Allows 512 MiB of addresses (a window takes addresses, not memory), one
    /// second, with windows, called directly.
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            deadline: Duration::from_secs(1),
            windows: true,
            direct: true,
        }
    }
}
