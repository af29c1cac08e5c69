//! Caution after a failure: entries are worked on one at a time, and the host
//! is told of each before, so that one which ends the device again is known.

use alloc::vec::Vec;

use crate::gdma::wq::Wq;
use device_kit::platform::Platform;
use mana_wire::queue::{QueueType, WQE_UNIT};

/// Entries until a device trusts itself again. More than one call may have
/// read when it failed.
const CAUTIOUS_ENTRIES: u32 = 1024;

/// Whether a device is cautious, and what it does not touch.
#[derive(Debug, Default)]
pub struct Caution {
    left: u32,
    skip: Vec<u64>,
}

impl Caution {
    /// Of a device whose predecessor failed.
    pub fn after_failure(skip: &[u64]) -> Self {
        Self {
            left: CAUTIOUS_ENTRIES,
            skip: skip.to_vec(),
        }
    }

    /// Whether entries are to be announced.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.left > 0
    }

    /// Announces the next entry of a work queue, if there is one. True if it
    /// is one that must not be worked on.
    #[cold]
    pub fn attempt_next(
        &mut self,
        platform: &mut impl Platform,
        queue_type: QueueType,
        id: u32,
        wq: &Wq,
    ) -> bool {
        let next = wq.next_entry();
        next.is_some_and(|position| self.attempt(platform, queue_type, id, position))
    }

    fn attempt(
        &mut self,
        platform: &mut impl Platform,
        queue_type: QueueType,
        id: u32,
        position: u32,
    ) -> bool {
        self.left = self.left.saturating_sub(1);
        let entry = name(queue_type, id, position);
        platform.attempt(entry);
        self.skip.contains(&entry)
    }
}

/// Names an entry for the host: where it begins in which queue.
fn name(queue_type: QueueType, id: u32, position: u32) -> u64 {
    let queue = u64::from(queue_type.to_wire()) << 60 | u64::from(id) << 32;
    queue | u64::from(position / WQE_UNIT)
}
