//! A thread for what nobody waits for: unmapping what an instance has grown to takes
//! a tenth of a second, and the guest is waiting for its successor.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

/// What is to be done.
type Job = Box<dyn FnOnce() + Send>;

/// Jobs that wait; one more is done on the spot.
const MAX_WAITING: usize = 4;

/// Does a job on the thread, if there is one; otherwise the job is dropped, with what
/// it owns.
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
