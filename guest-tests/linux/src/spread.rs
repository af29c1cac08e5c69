//! Percentiles of times, for a report.

use std::fmt;

/// The spread of some times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The maximum.
    pub max: u64,
}

impl Spread {
    /// Returns the spread of some times, or `None` if there are none.
    pub fn of(times: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut times: Vec<u64> = times.into_iter().collect();
        times.sort_unstable();
        let at_most = |percent: usize| times.get((times.len() * percent).div_ceil(100) - 1);
        let max = *times.last()?;
        Some(Self {
            p50: *at_most(50)?,
            p99: *at_most(99)?,
            max,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50, self.p99, self.max].map(|us| us as f64 / 1e3);
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let spread = Spread::of((1..=200).rev()).unwrap();
        assert_eq!((spread.p50, spread.p99, spread.max), (100, 198, 200));
        let one = Spread::of([1500]).unwrap();
        assert_eq!(one.to_string(), "p50 1.50 ms, p99 1.50 ms, max 1.50 ms");
        assert_eq!(Spread::of([]), None);
    }
}
