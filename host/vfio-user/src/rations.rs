//! How much VMMs can have logged.

use manatee_common::ration::Ration;

/// The lines that VMMs can cause. Those of one kind do not use up another's.
#[derive(Debug, Default)]
pub struct Rations {
    /// That one comes, resets the device, and goes.
    pub sessions: Ration,
    /// What is refused.
    pub refusals: Ration,
    /// That memory is out of reach.
    pub memory: Ration,
    /// That a session will not survive.
    pub journals: Ration,
}
