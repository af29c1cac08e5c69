//! Counting what a guest does wrong, and logging it ever more rarely.

/// No counter reaches this.
pub const COUNTABLE: u64 = 1 << 62;

/// Counts faults of the guest, and says when one more deserves a log line:
/// the first few, then ever more rarely.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCounter(u64);

impl FaultCounter {
    /// Counts one. Returns whether it should be logged.
    pub fn hit(&mut self) -> bool {
        self.0 += 1;
        self.0 <= 4 || self.0.is_power_of_two()
    }

    /// Continues from a count.
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
