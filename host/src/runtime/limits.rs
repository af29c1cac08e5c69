//! What one device may use.

use std::time::Duration;

/// Bounds of what one device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory in bytes, windows included.
    pub memory: usize,
    /// Longest that one call may run.
    pub deadline: Duration,
    /// Whether ring windows are given; without, the device copies.
    pub windows: bool,
    /// Whether a component that is one module is called past wasmtime's
    /// component model: in an eighth of the time.
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
