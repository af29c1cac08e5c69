//! How many lines a component may log.

use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 32;
/// One more line becomes free this often.
const REFILL: Duration = Duration::from_millis(200);

/// A bucket of lines for each level.
#[derive(Debug)]
pub struct LogLimit {
    left: [u32; 5],
    refilled: Instant,
    dropped: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self {
            left: [BURST; 5],
            refilled: Instant::now(),
            dropped: 0,
        }
    }
}

impl LogLimit {
    /// Whether a line of the level with this number may be logged now.
    pub fn allow(&mut self, level: usize) -> bool {
        let elapsed = self.refilled.elapsed().as_millis() / REFILL.as_millis();
        if elapsed > 0 {
            self.refilled = Instant::now();
            let more = u32::try_from(elapsed).unwrap_or(BURST);
            for left in &mut self.left {
                *left = left.saturating_add(more).min(BURST);
            }
        }
        match self.left.get_mut(level) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => {
                self.dropped += 1;
                false
            }
        }
    }

    /// Lines that were not logged.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_other_levels_are_not() {
        let mut limit = LogLimit::default();
        let logged = (0..10_000).filter(|_| limit.allow(1)).count();
        assert!((32..10_000).contains(&logged), "{logged} lines");
        assert_eq!(limit.dropped() + logged as u64, 10_000);
        assert!(limit.allow(0));
    }
}
