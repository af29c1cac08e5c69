//! Limits how many log lines VMMs can cause.

use manatee_common::ration::Ration;

/// The rations of the lines that VMMs can cause, one for each kind.
#[derive(Debug, Default)]
pub struct Rations {
    /// A VMM connects, resets the device, or disconnects.
    pub sessions: Ration,
    /// A request is refused.
    pub refusals: Ration,
    /// Guest memory is out of reach.
    pub memory: Ration,
    /// That a session will not survive.
    pub journals: Ration,
}
