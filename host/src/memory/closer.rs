//! Closes descriptors on a thread of its own.
//!
//! Closing what somebody else chose can take as long as he likes: a TCP socket
//! with `SO_LINGER` waits until its peer has read everything.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

/// How many descriptors may wait to be closed.
const WAITING: usize = 256;

/// Closes a descriptor that may be of anything, on another thread. If too many
/// wait there, or there can be no such thread, it is closed here: the caller
/// waits, who must hold no lock that others need.
pub(crate) fn close_elsewhere(descriptor: impl Into<OwnedFd>) {
    static QUEUE: OnceLock<Option<SyncSender<OwnedFd>>> = OnceLock::new();
    let queue = QUEUE.get_or_init(start);
    let descriptor = descriptor.into();
    if let Some(queue) = queue
        && let Err(TrySendError::Full(own) | TrySendError::Disconnected(own)) =
            queue.try_send(descriptor)
    {
        drop(own);
    }
}

fn start() -> Option<SyncSender<OwnedFd>> {
    let (queue, descriptors) = sync_channel(WAITING);
    let closer = thread::Builder::new().name("closer".to_owned());
    let started = closer.spawn(move || descriptors.into_iter().for_each(drop));
    match started {
        Ok(_) => Some(queue),
        Err(error) => {
            tracing::warn!(%error, "there is no thread to close descriptors");
            None
        }
    }
}
