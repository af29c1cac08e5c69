//! Limits the rate of requests: a burst, and then a fixed number per second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{REQUEST_BURST, REQUESTS_PER_SECOND};

/// The time slice of one request.
const SHARE: Duration = Duration::from_micros(1_000_000 / REQUESTS_PER_SECOND as u64);

/// The pace of all clients together.
#[derive(Debug)]
pub struct Pace {
    /// The time until which the requests so far have used up their slices.
    paid: Mutex<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            paid: Mutex::new(Instant::now()),
        }
    }
}

impl Pace {
    /// Waits until one more request may be carried out.
    pub async fn turn(&self) {
        let wait = self.wait(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes a slice. Returns the delay until it begins.
    fn wait(&self, now: Instant) -> Duration {
        let mut paid = self.paid.lock();
        *paid = (*paid).max(now) + SHARE;
        paid.saturating_duration_since(now + REQUEST_BURST * SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_wait_and_after_a_pause_a_burst_does_not() {
        let pace = Pace::default();
        let begin = Instant::now();
        let waits: Vec<_> = (0..3 * REQUEST_BURST).map(|_| pace.wait(begin)).collect();
        let (burst, rest) = waits.split_at(REQUEST_BURST as usize);
        assert!(burst.iter().all(Duration::is_zero), "{burst:?}");
        assert!(rest.is_sorted() && !rest[0].is_zero(), "{rest:?}");
        assert_eq!(rest[rest.len() - 1], 2 * REQUEST_BURST * SHARE);
        let later = begin + 3 * REQUEST_BURST * SHARE;
        assert!((0..REQUEST_BURST).all(|_| pace.wait(later).is_zero()));
        assert!(!pace.wait(later).is_zero());
    }
}
