//! The saved state: its format ([`State`]) and its validation ([`State::check`]).
//!
//! A state is untrusted input. It is checked as a whole before anything is built from
//! it, so that building cannot fail. Every field has a number that is never used again;
//! a build reads the versions that [`READS`] lists.

use alloc::vec::Vec;

use device_kit::envelope::{Format, RestoreError, decode, encode};
use minicbor::{Decode, Encode};

mod bnic;
mod check;
mod gdma;
mod pages;

pub use bnic::{InFlight, Nic, Object, Posted, Steering, Vport, object_handle, object_number};
pub use gdma::{Cq, Eq, Hwc, Queues, Region, Regions, Ring, Wq};
pub use pages::Pages;

/// The version that this build writes.
pub const VERSION: u32 = 1;
/// The versions that this build reads.
pub const READS: [u32; 1] = [VERSION];
/// The format of the device's states.
pub const FORMAT: Format = Format {
    name: "manatee-mana",
    writes: VERSION,
    reads: &READS,
};

/// The state of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct State {
    /// The shared-memory channel's aperture.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub shared_memory: [u8; 32],
    /// Offset and low half of a doorbell that is written in two halves.
    #[n(1)]
    pub doorbell_low: Option<(u64, u32)>,
    /// The hardware channel, if it is established.
    #[n(2)]
    pub hwc: Option<Hwc>,
    /// Whether requests wait for their turn.
    #[n(3)]
    pub hwc_waiting: bool,
    /// Handles of objects with unread WQEs that wait for their turn.
    #[n(4)]
    pub waiting: Vec<u64>,
    /// Registered memory that no queue uses yet.
    #[n(5)]
    pub regions: Regions,
    /// All queues.
    #[n(6)]
    pub queues: Queues,
    /// The NIC.
    #[n(7)]
    pub nic: Nic,
    /// Writes to offsets of BAR 0 where nothing is.
    #[n(8)]
    pub stray_accesses: u64,
}

impl State {
    /// Returns the state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        FORMAT.seal(&encode(self))
    }

    /// Reads a state. The values are not checked here.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Version`] if this build does not read the version,
    /// [`RestoreError::Malformed`] if the bytes are not a device's state.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        decode(FORMAT.open(bytes)?, "its content is not a device's state")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_decoded_as_it_was_encoded() {
        let state = State {
            doorbell_low: Some((0x1000, 7)),
            hwc_waiting: true,
            waiting: [3, 1 << 50].into(),
            ..State::default()
        };
        assert_eq!(State::from_bytes(&state.to_bytes()), Ok(state));
    }
}
