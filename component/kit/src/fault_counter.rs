//! A counter of a guest's faults, which are logged ever more rarely.

/// No counter reaches this.
pub const COUNTABLE: u64 = 1 << 62;

/// A counter of the guest's faults, which decides which of them to log: the
/// first few, then ever fewer.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCounter(u64);

impl FaultCounter {
    /// Counts a fault. Returns whether it should be logged.
    pub fn hit(&mut self) -> bool {
        self.0 += 1;
        self.0 <= 4 || self.0.is_power_of_two()
    }

    /// Creates a counter that continues from a count.
    #[must_use]
    pub fn from_count(count: u64) -> Self {
        Self(count.min(COUNTABLE))
    }

    /// Returns how many there were.
    #[must_use]
    pub fn count(self) -> u64 {
        self.0
    }
}
