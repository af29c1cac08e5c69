//! Where instances go that nobody waits for: unmapping what one has grown to
//! takes a tenth of a second, and the guest is waiting for its successor.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use super::Instance;

/// Instances that wait to be dropped; one more is dropped on the spot.
const MAX_WAITING: usize = 4;

/// Drops an instance on a thread of its own, if there is one.
pub fn drop_later(instance: Instance) {
    static REAPER: OnceLock<Option<SyncSender<Instance>>> = OnceLock::new();
    let Some(reaper) = REAPER.get_or_init(start) else {
        return;
    };
    match reaper.try_send(instance) {
        Ok(()) => {}
        Err(TrySendError::Full(instance) | TrySendError::Disconnected(instance)) => drop(instance),
    }
}

fn clear_away(instance: Instance) {
    if let Some(memory) = &instance.state_ref().linear_memory {
        memory.discard();
    }
}

fn start() -> Option<SyncSender<Instance>> {
    let (sender, instances) = sync_channel(MAX_WAITING);
    let spawned = thread::Builder::new()
        .name("reaper".into())
        .spawn(move || instances.into_iter().for_each(clear_away));
    spawned.is_ok().then_some(sender)
}
