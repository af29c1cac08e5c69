//! The state shared by the threads of one end.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The progress of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Datagrams that were received here, each counted once.
    pub received: u64,
    /// Datagrams that the other end has reported as received.
    pub arrived: u64,
}

#[derive(Debug, Default)]
struct State {
    progress: Progress,
    /// Whether the senders are to stop.
    stopped: bool,
    /// Whether the result is no longer needed.
    abandoned: bool,
    /// The number of datagrams that the other end has sent in all, once it has reported that.
    expected: Option<u64>,
    /// Why a thread ended early.
    failure: Option<String>,
}

/// The state shared by one end's threads.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// Returns whether the senders are to stop.
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// Stops the senders.
    pub fn stop(&self) {
        self.state().stopped = true;
    }

    /// Returns whether the receivers are to stop without a result.
    pub fn abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// Stops everything.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.stopped = true;
        state.abandoned = true;
    }

    /// Returns how many datagrams the other end has sent in all, if that is known.
    pub fn expected(&self) -> Option<u64> {
        self.state().expected
    }

    /// Notes how many datagrams the other end has sent in all.
    pub fn expect(&self, datagrams: u64) {
        self.state().expected = Some(datagrams);
    }

    /// Returns how many datagrams were received here.
    pub fn received(&self) -> u64 {
        self.state().progress.received
    }

    /// Notes how many datagrams were received here, and at least how many there.
    pub fn note(&self, received: u64, arrived: u64) {
        let progress = &mut self.state().progress;
        progress.received = received;
        progress.arrived = progress.arrived.max(arrived);
        self.changed.notify_all();
    }

    /// Notes that a thread has ended early.
    pub fn fail(&self, why: String) {
        self.state().failure.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Waits until `datagrams` more have arrived in both directions.
    ///
    /// # Errors
    ///
    /// If they do not arrive within that time, or a thread has ended.
    pub fn wait_for_more(&self, datagrams: u64, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut state = self.state();
        let begun = state.progress;
        loop {
            if let Some(failure) = &state.failure {
                bail!("{failure}");
            }
            let now = state.progress;
            let (here, there) = (now.received - begun.received, now.arrived - begun.arrived);
            if here.min(there) >= datagrams {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "the traffic stands still: within {within:?}, {there} datagrams came to the other end, and {here} from it"
                );
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves the state as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
