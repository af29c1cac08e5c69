//! Caution after a failure: WQEs are worked on one at a time, and each is announced to
//! the host first, so that one which ends the device again is known.

use alloc::vec::Vec;

use device_kit::Platform;
use mana_wire::queue::WQE_UNIT;

use super::ids::WqId;

/// The number of WQEs after which the device stops being cautious. A failed call may
/// have read ahead by more than one batch, so this is larger than a batch.
const CAUTIOUS_ENTRIES: u32 = 1024;

/// Whether a device is cautious, and which WQEs it skips.
#[derive(Debug, Default)]
pub struct Caution {
    left: u32,
    skip: Vec<u64>,
}

impl Caution {
    /// Creates the caution of a device whose predecessor failed; the WQEs `skip` made
    /// it fail more than once.
    pub fn after_failure(skip: &[u64]) -> Self {
        Self {
            left: CAUTIOUS_ENTRIES,
            skip: skip.to_vec(),
        }
    }

    /// Returns whether WQEs have to be announced.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.left > 0
    }

    /// Announces the WQE of a queue that begins at `position`. Returns whether it must
    /// be skipped.
    #[cold]
    pub fn attempt(&mut self, platform: &mut impl Platform, wq: WqId, position: u32) -> bool {
        self.left = self.left.saturating_sub(1);
        let entry = id(wq, position);
        platform.attempt(entry);
        self.skip.contains(&entry)
    }
}

/// Returns the id of a WQE for the host: its queue and position.
fn id(wq: WqId, position: u32) -> u64 {
    let queue = u64::from(wq.queue_type().to_wire()) << 60 | u64::from(wq.number()) << 32;
    queue | u64::from(position / WQE_UNIT)
}
