//! Recovery after a component failed: which attempts are made, and what is recorded for them.

use std::time::Duration;

use super::doorbells::Doorbells;
use super::report::Recovery;
use crate::contract::Observations;
use crate::runtime::{Failure, HostState};

/// How often a failing component is replaced by a fresh instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPolicy {
    /// Fresh instances in a row that may fail before the guest is asked to reset the device. With
    /// 0, the first failure takes the device down until it is reset.
    pub recoveries: u32,
    /// Fresh instances that may fail after that before the device is down.
    pub last_tries: u32,
}

impl Default for CrashPolicy {
    /// Allows four, and then two.
    fn default() -> Self {
        Self {
            recoveries: 4,
            last_tries: 2,
        }
    }
}

/// Calls that a fresh instance has to survive before earlier failures are
/// forgotten.
const TRUSTED_AFTER: u32 = 128;
/// WQEs that are skipped at a time.
const MAX_SKIPPED: usize = 64;
/// Failures that are logged in full; later ones ever more rarely.
const LOGGED_FAILURES: u64 = 8;

/// Returns whether the n-th failure of a component is logged.
fn is_logged(n: u64) -> bool {
    n <= LOGGED_FAILURES || n.is_power_of_two()
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A fresh instance continues.
    Recover,
    /// A fresh instance asks the guest to reset the device.
    AskForReset,
    /// The device is down until it is reset.
    GiveUp,
}

/// The record from which a failed component is recovered.
#[derive(Debug)]
pub struct Recoverer {
    policy: CrashPolicy,
    /// The last state, taken after each change of the configuration.
    pub checkpoint: Option<Vec<u8>>,
    /// The last doorbells.
    pub doorbells: Doorbells,
    /// WQEs that failed twice.
    skip: Vec<u64>,
    /// How many of them were added since the last recovery.
    newly_skipped: u64,
    /// Failures without enough successful calls between them.
    tries: u32,
    /// Successful calls since the last failure, as far as they matter.
    successes: u32,
    /// Instances that failed.
    pub failures: u64,
    recoveries: u64,
}

impl Recoverer {
    /// Creates one for a device with these doorbells.
    pub fn new(policy: CrashPolicy, doorbells: Doorbells) -> Self {
        Self {
            policy,
            checkpoint: None,
            doorbells,
            skip: Vec::new(),
            newly_skipped: 0,
            tries: 0,
            successes: 0,
            failures: 0,
            recoveries: 0,
        }
    }

    /// Keeps a state, and returns the previous one. Observations from before it was taken are
    /// discarded, since it contains them.
    pub fn keep(&mut self, state: Vec<u8>) -> Option<Vec<u8>> {
        self.doorbells.clear();
        self.checkpoint.replace(state)
    }

    /// Resets the counters for another component.
    pub fn restart(&mut self) -> Next {
        self.tries = 1;
        Next::Recover
    }

    /// Discards the record, because the device is at power-on.
    pub fn forget(&mut self) {
        self.checkpoint = None;
        self.doorbells.clear();
        self.skip.clear();
        self.tries = 0;
    }

    /// Counts a successful call.
    #[inline]
    pub fn succeeded(&mut self) {
        if self.tries > 0 {
            self.successes += 1;
            if self.successes >= TRUSTED_AFTER {
                self.tries = 0;
                self.skip.clear();
            }
        }
    }

    /// Counts a failure, and returns what to do about it.
    pub fn failed(&mut self, failure: &Failure, attempt: Option<u64>) -> Next {
        self.failures += 1;
        self.tries += 1;
        self.successes = 0;
        if is_logged(self.failures) {
            tracing::error!(failures = self.failures, "{failure}");
        }
        if let Some(entry) = attempt.filter(|entry| !self.skip.contains(entry)) {
            if self.skip.len() >= MAX_SKIPPED {
                self.skip.remove(0);
            }
            self.skip.push(entry);
            self.newly_skipped += 1;
        }
        let CrashPolicy {
            recoveries,
            last_tries,
        } = self.policy;
        match self.tries {
            tries if tries <= recoveries => Next::Recover,
            tries if recoveries > 0 && tries <= recoveries + last_tries => Next::AskForReset,
            _ => Next::GiveUp,
        }
    }

    /// Returns the observations for a fresh instance.
    pub fn observations(&self, state: &HostState) -> Observations {
        Observations {
            doorbells: self.doorbells.writes(),
            transmitted: state.handed_over().collect(),
            skip: self.skip.clone(),
        }
    }

    /// Counts a recovery, and reports it.
    pub fn recovered(
        &mut self,
        failure: &Failure,
        took: Duration,
        (lost_transmits, lost_receives): (u64, u64),
        asked_for_reset: bool,
    ) -> Recovery {
        self.recoveries += 1;
        let lost_transmits = lost_transmits + std::mem::take(&mut self.newly_skipped);
        let recovery = Recovery {
            reason: failure.summary(),
            took,
            lost_transmits,
            lost_receives,
            skipped: self.skip.len(),
            asked_for_reset,
        };
        if is_logged(self.recoveries) {
            tracing::info!(
                recoveries = self.recoveries,
                took_us = recovery.took.as_micros() as u64,
                lost_transmits,
                lost_receives,
                asked_for_reset,
                "a fresh instance continues"
            );
        }
        recovery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recoverer() -> Recoverer {
        Recoverer::new(CrashPolicy::default(), Doorbells::default())
    }

    fn failure() -> Failure {
        Failure::because("wasm trap")
    }

    #[test]
    fn tries_are_bounded() {
        let mut recoverer = recoverer();
        let next: Vec<_> = (0..7).map(|_| recoverer.failed(&failure(), None)).collect();
        use Next::{AskForReset, GiveUp, Recover};
        let expected = [
            Recover,
            Recover,
            Recover,
            Recover,
            AskForReset,
            AskForReset,
            GiveUp,
        ];
        assert_eq!(next, expected);
    }

    #[test]
    fn success_forgets_failures() {
        let mut recoverer = recoverer();
        for _ in 0..100 {
            assert_eq!(recoverer.failed(&failure(), Some(1)), Next::Recover);
            (0..TRUSTED_AFTER).for_each(|_| recoverer.succeeded());
            assert!(recoverer.skip.is_empty());
        }
    }

    #[test]
    fn no_recoveries_means_down_at_once() {
        let policy = CrashPolicy {
            recoveries: 0,
            last_tries: 2,
        };
        let mut recoverer = Recoverer::new(policy, Doorbells::default());
        assert_eq!(recoverer.failed(&failure(), None), Next::GiveUp);
    }

    #[test]
    fn a_wqe_is_skipped_once_it_was_attempted() {
        let mut recoverer = recoverer();
        recoverer.failed(&failure(), None);
        recoverer.failed(&failure(), Some(7));
        recoverer.failed(&failure(), Some(7));
        assert_eq!(recoverer.skip, [7]);
        (0..2 * MAX_SKIPPED as u64).for_each(|entry| {
            recoverer.failed(&failure(), Some(entry));
        });
        assert_eq!(recoverer.skip.len(), MAX_SKIPPED);
    }
}
