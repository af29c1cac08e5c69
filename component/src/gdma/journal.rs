//! The journal: what a device's successor learns from the completions that the device
//! left in guest memory. [`recovery`](crate::recovery) describes recovery as a whole.
//!
//! The record is in word 6 of a CQE. No kind of completion uses its lower half, and
//! completions of the hardware channel do not use its upper half; drivers ignore both.
//! The lower half is the end position of the completed WQE. The upper half is the
//! length of the WQE in units if it was a request that may have changed the
//! configuration, 0 otherwise.

use mana_wire::queue::{MAX_SQE_SIZE, WQE_UNIT};

/// Index of the word of a CQE that holds the record.
pub const WORD: usize = 6;

/// What a CQE tells a successor about the WQE that it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// End position of the WQE.
    pub end: u32,
    /// Length of the WQE in units if it was a request that may have changed the
    /// configuration.
    pub change: u32,
}

impl Record {
    /// Creates the record of a completed WQE that ends at `end`.
    #[inline]
    pub fn completed(end: u32) -> Self {
        Self { end, change: 0 }
    }

    /// Creates the record of an answered request that may have changed the
    /// configuration.
    pub fn changed(position: u32, end: u32) -> Self {
        let change = end.wrapping_sub(position) / WQE_UNIT;
        Self { end, change }
    }

    /// Returns the record as a word of a CQE.
    #[inline]
    pub fn into_word(self) -> u64 {
        u64::from(self.end) | u64::from(self.change) << 32
    }

    /// Reads the record of a CQE.
    pub fn from_word(word: u64) -> Self {
        Self {
            end: word as u32,
            change: (word >> 32) as u32,
        }
    }

    /// Returns where a request that may have changed the configuration begins. None for
    /// any other WQE, or if the length is impossible.
    pub fn change_position(self) -> Option<u32> {
        let length = self.change.wrapping_mul(WQE_UNIT);
        let is_possible = length != 0 && length <= MAX_SQE_SIZE;
        is_possible.then(|| self.end.wrapping_sub(length))
    }
}
