//! Vectors that are raised later, because the device asked for that.
//!
//! The device's own thread wakes up when the next one is due ([`Due`]), and whoever has the
//! device then raises it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest delay; a longer one is shortened, as the contract permits.
pub const LONGEST: Duration = Duration::from_secs(1);
/// No vector waits.
const NEVER: u64 = u64::MAX;

/// When the next vector is due, readable without the device's lock.
#[derive(Clone, Debug)]
pub struct Due {
    /// Nanoseconds after `base`, or [`NEVER`].
    next: Arc<AtomicU64>,
    base: Instant,
}

impl Due {
    fn new(base: Instant) -> Self {
        Self {
            next: Arc::new(AtomicU64::new(NEVER)),
            base,
        }
    }

    fn set(&self, next: Option<Instant>) {
        let nanoseconds = |at: Instant| at.saturating_duration_since(self.base).as_nanos();
        let next = next.map_or(NEVER, |at| nanoseconds(at) as u64);
        self.next.store(next, Ordering::Release);
    }

    /// Returns when the next vector is due, if one waits.
    #[inline]
    pub fn next(&self) -> Option<Instant> {
        match self.next.load(Ordering::Acquire) {
            NEVER => None,
            nanoseconds => Some(self.base + Duration::from_nanos(nanoseconds)),
        }
    }
}

/// The vectors that wait.
#[derive(Debug)]
pub struct Delayed {
    /// When each vector is due, by number; empty as long as none has waited.
    times: Vec<Option<Instant>>,
    due: Due,
    /// Set when one is added that is due before all others.
    alarm: bool,
}

impl Default for Delayed {
    fn default() -> Self {
        Self {
            times: Vec::new(),
            due: Due::new(Instant::now()),
            alarm: false,
        }
    }
}

impl Delayed {
    /// Returns what shows when the next vector is due.
    pub fn due(&self) -> Due {
        self.due.clone()
    }

    /// Adds a vector that exists; one that waits already is due at the earlier of both times.
    /// `vectors` is how many there are.
    pub fn add(&mut self, vector: u16, vectors: u16, at: Instant) {
        if self.times.is_empty() {
            self.times.resize(vectors.into(), None);
        }
        let Some(time) = self.times.get_mut(usize::from(vector)) else {
            return;
        };
        *time = Some(time.map_or(at, |before| before.min(at)));
        if self.due.next().is_none_or(|next| at < next) {
            self.due.set(Some(at));
            self.alarm = true;
        }
    }

    /// Takes a vector that is raised now. Returns whether it waited.
    #[inline]
    pub fn take(&mut self, vector: u16) -> bool {
        // The thread may wake up once in vain.
        let time = self.times.get_mut(usize::from(vector));
        time.is_some_and(|time| time.take().is_some())
    }

    /// Takes the first vector from `from` on that is due at this time, or that waits at all if
    /// it is None. To be called until there is none.
    pub fn take_due(&mut self, from: u16, now: Option<Instant>) -> Option<u16> {
        let is_due = |time: &Option<Instant>| match (time, now) {
            (Some(time), Some(now)) => *time <= now,
            (time, _) => time.is_some(),
        };
        let mut times = self.times.iter_mut().enumerate().skip(from.into());
        if let Some((vector, time)) = times.find(|(_, time)| is_due(time)) {
            *time = None;
            return Some(vector as u16);
        }
        self.due.set(self.times.iter().flatten().min().copied());
        None
    }

    /// Returns whether a vector may be due at this time.
    #[inline]
    pub fn is_due(&self, now: impl FnOnce() -> Instant) -> bool {
        self.due.next().is_some_and(|next| next <= now())
    }

    /// Returns whether the thread has to look again when the next vector is due.
    pub fn take_alarm(&mut self) -> bool {
        std::mem::take(&mut self.alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// Takes all that are due.
    fn due(delayed: &mut Delayed, now: Instant) -> Vec<u16> {
        let mut taken = Vec::new();
        while let Some(vector) = delayed.take_due(taken.last().map_or(0, |it| it + 1), Some(now)) {
            taken.push(vector);
        }
        taken
    }

    #[test]
    fn each_is_raised_when_it_is_due_and_once() {
        let mut delayed = Delayed::default();
        let (shown, begun) = (delayed.due(), Instant::now());
        delayed.add(3, 8, begun + micros(50));
        delayed.add(1, 8, begun + micros(20));
        delayed.add(8, 8, begun);
        let next = |after: Option<Duration>| assert_eq!(shown.next(), after.map(|it| begun + it));
        next(Some(micros(20)));
        let mut at = |after| due(&mut delayed, begun + micros(after));
        assert!(at(19).is_empty());
        assert_eq!(at(20), [1]);
        next(Some(micros(50)));
        assert!(at(49).is_empty());
        assert_eq!(at(99), [3]);
        next(None);
        assert!(at(99).is_empty());
    }

    #[test]
    fn the_earlier_of_two_times_counts() {
        let mut delayed = Delayed::default();
        let begun = Instant::now();
        for after in [30, 10, 20] {
            delayed.add(0, 1, begun + micros(after));
        }
        assert_eq!(due(&mut delayed, begun + micros(10)), [0]);
        assert_eq!(delayed.due().next(), None);
    }

    #[test]
    fn what_is_raised_sooner_waits_no_longer() {
        let mut delayed = Delayed::default();
        let begun = Instant::now();
        assert!(!delayed.take(0));
        delayed.add(0, 2, begun);
        delayed.add(1, 2, begun);
        assert!(delayed.take(0) && !delayed.take(0));
        assert_eq!(delayed.take_due(0, None), Some(1));
        assert_eq!(delayed.take_due(2, None), None);
        assert!(due(&mut delayed, begun + LONGEST).is_empty());
    }

    #[test]
    fn the_thread_is_woken_for_what_is_due_before_all_others() {
        let mut delayed = Delayed::default();
        let begun = Instant::now();
        for (after, wakes) in [(30, true), (40, false), (20, true), (20, false)] {
            delayed.add(after as u16, 64, begun + micros(after));
            assert_eq!(delayed.take_alarm(), wakes, "{after}");
            assert!(!delayed.take_alarm());
        }
    }
}
