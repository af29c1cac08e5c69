//! Keeps a guest or VMM from filling the log.

use std::time::{Duration, Instant};

/// Lets a burst of messages through, then one every few seconds.
#[derive(Debug)]
pub(super) struct Throttle {
    left: u32,
    refilled: Instant,
    /// How many were held back since the last that passed.
    dropped: u64,
}

impl Throttle {
    const BURST: u32 = 16;
    const REFILL: Duration = Duration::from_secs(5);

    pub fn new() -> Self {
        Self {
            left: Self::BURST,
            refilled: Instant::now(),
            dropped: 0,
        }
    }

    /// Whether a message may pass: if so, how many did not since the last one.
    pub fn pass(&mut self) -> Option<u64> {
        let refills = self.refilled.elapsed().as_secs() / Self::REFILL.as_secs();
        if refills > 0 {
            let more = u32::try_from(refills).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(Self::BURST);
            self.refilled = Instant::now();
        }
        if self.left == 0 {
            self.dropped += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_passes_and_the_rest_is_counted() {
        let mut throttle = Throttle::new();
        let passed = (0..100).filter(|_| throttle.pass().is_some()).count();
        assert_eq!(passed, 16);
        throttle.refilled -= Throttle::REFILL;
        assert_eq!(throttle.pass(), Some(84));
        assert_eq!(throttle.pass(), None);
    }
}
