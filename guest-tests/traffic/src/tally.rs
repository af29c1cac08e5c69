//! Counts which of the numbered datagrams arrived, how often, and in what order.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How far ahead of the highest number so far the next may be; a higher one is not a
/// number of the stream.
const MAX_AHEAD: u64 = 1 << 24;

/// The fate of one direction's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Datagrams that arrived, each counted once.
    pub received: u64,
    /// Datagrams that never arrived.
    pub lost: u64,
    /// Datagrams that arrived again.
    pub doubled: u64,
    /// Datagrams that first arrived after one with a higher number.
    pub reordered: u64,
    /// Arrivals that are none of the datagrams sent.
    pub corrupt: u64,
    /// The longest time between two datagrams, in microseconds.
    pub longest_gap_us: u64,
}

impl Tally {
    /// Returns whether each datagram arrived once, intact and in order.
    pub fn is_perfect(&self) -> bool {
        self.received == self.sent
            && [self.lost, self.doubled, self.reordered, self.corrupt] == [0; 4]
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            sent,
            lost,
            doubled,
            reordered,
            ..
        } = self;
        write!(
            f,
            "{sent} sent, {lost} lost, {doubled} doubled, {reordered} reordered"
        )?;
        match self.corrupt {
            0 => Ok(()),
            corrupt => write!(f, ", {corrupt} corrupt"),
        }
    }
}

/// A counter of arriving datagrams.
#[derive(Debug, Default)]
pub struct Counter {
    /// A bit for each number.
    seen: Vec<u64>,
    /// One more than the highest number so far.
    end: u64,
    received: u64,
    doubled: u64,
    reordered: u64,
    corrupt: u64,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Counter {
    /// Counts a datagram that arrived at `now`.
    pub fn count(&mut self, number: u64, now: Instant) {
        if number >= self.end + MAX_AHEAD {
            return self.count_corrupt();
        }
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.doubled += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        self.reordered += u64::from(number < self.end);
        self.end = self.end.max(number + 1);
    }

    /// Counts an arrival that is not a datagram of the stream.
    pub fn count_corrupt(&mut self) {
        self.corrupt += 1;
    }

    /// Returns how many arrived, each counted once.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the result, once it is known how many were sent.
    pub fn finish(&self, sent: u64) -> Tally {
        // A number beyond the last was not sent.
        let beyond = (sent..self.end).filter(|number| self.has(*number)).count() as u64;
        let received = self.received - beyond;
        Tally {
            sent,
            received,
            lost: sent - received,
            doubled: self.doubled,
            reordered: self.reordered,
            corrupt: self.corrupt + beyond,
            longest_gap_us: self.longest_gap.as_micros() as u64,
        }
    }

    fn has(&self, number: u64) -> bool {
        self.seen[(number / 64) as usize] & 1 << (number % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(numbers: &[u64], sent: u64) -> Tally {
        let mut counter = Counter::default();
        let begun = Instant::now();
        for (step, number) in (0..).zip(numbers) {
            counter.count(*number, begun + Duration::from_micros(step * step));
        }
        counter.finish(sent)
    }

    #[test]
    fn all_in_order_is_perfect() {
        let tally = tally(&[0, 1, 2, 3], 4);
        assert!(tally.is_perfect(), "{tally}");
        assert_eq!(tally.longest_gap_us, 5);
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        let counts = |numbers: &[u64], sent| {
            let tally = tally(numbers, sent);
            assert!(!tally.is_perfect());
            (tally.lost, tally.doubled, tally.reordered, tally.corrupt)
        };
        assert_eq!(counts(&[0, 2, 3], 4), (1, 0, 0, 0));
        assert_eq!(counts(&[0, 1, 2], 4), (1, 0, 0, 0));
        assert_eq!(counts(&[0, 1, 1, 2], 3), (0, 1, 0, 0));
        assert_eq!(counts(&[0, 2, 1, 3], 4), (0, 0, 1, 0));
        assert_eq!(counts(&[0, 1, 2, 70], 3), (0, 0, 0, 1));
        assert_eq!(counts(&[0, u64::MAX - 64, 1, 2], 3), (0, 0, 0, 1));
    }
}
