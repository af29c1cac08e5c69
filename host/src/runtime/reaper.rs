//! A thread for cleanup that nobody waits for: unmapping the memory of an instance takes up to
//! a tenth of a second, and the guest is waiting for its successor.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

/// A cleanup job.
type Job = Box<dyn FnOnce() + Send>;

/// The most jobs that wait; one more is done at once.
const MAX_WAITING: usize = 4;

/// Runs a job on the thread, if there is one; otherwise drops the job, with all that it owns.
pub fn run_later(job: impl FnOnce() + Send + 'static) {
    static REAPER: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    let Some(reaper) = REAPER.get_or_init(start) else {
        return;
    };
    match reaper.try_send(Box::new(job)) {
        Ok(()) => {}
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job(),
    }
}

fn start() -> Option<SyncSender<Job>> {
    let (sender, jobs) = sync_channel::<Job>(MAX_WAITING);
    let spawned = thread::Builder::new()
        .name("reaper".into())
        .spawn(move || jobs.into_iter().for_each(|job| job()));
    spawned.is_ok().then_some(sender)
}
