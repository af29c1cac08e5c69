//! The journal: what a device's successor learns from the completions that the
//! device left in guest memory. The whole story is in
//! [`recovery`](crate::recovery).
//!
//! Word 6 of a CQE is one whose lower half no kind of completion uses, and
//! whose upper half those of the hardware channel do not. Drivers ignore it.
//! The lower half has the position behind the WQE that was completed, in bytes
//! modulo 2^32. The upper half has, for a request that may have changed the
//! configuration, the length of its WQE in units; 0 otherwise.

use mana_wire::queue::{MAX_SQE_SIZE, WQE_UNIT};

/// The word of a CQE that has the record.
pub const WORD: usize = 6;

/// What a CQE says of the WQE that it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position behind the WQE, in bytes modulo 2^32.
    pub end: u32,
    /// Length of the WQE in units if it was a request that may have changed the
    /// configuration.
    pub change: u32,
}

impl Record {
    /// Records that a WQE which ends here was completed.
    #[inline]
    pub fn completed(end: u32) -> Self {
        Self { end, change: 0 }
    }

    /// Records that a request was answered that may have changed the
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

    /// Returns where the request begins that may have changed the configuration.
    /// None if it did not, or the length is impossible.
    pub fn change_position(self) -> Option<u32> {
        let length = self.change.wrapping_mul(WQE_UNIT);
        let is_possible = length != 0 && length <= MAX_SQE_SIZE;
        is_possible.then(|| self.end.wrapping_sub(length))
    }
}
