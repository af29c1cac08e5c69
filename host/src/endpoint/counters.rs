//! What an endpoint did, for people.
//!
//! Counters are a row of numbers, with a name each: whatever does the same to all of them
//! works on the [row](Counters::words).

use serde::Serialize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::packet::TxStatus;
use super::policy::RefusedCounters;

/// What an endpoint did since it was opened.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Counters {
    /// From the guest.
    pub transmit: TxCounters,
    /// To the guest.
    pub receive: RxCounters,
    /// Neither sent nor received, as its policy says.
    pub refused: RefusedCounters,
}

/// Packets from the guest.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct TxCounters {
    /// Packets that were sent.
    pub packets: u64,
    /// Their bytes, as the guest handed them over.
    pub bytes: u64,
    /// Sent packets that had a checksum left to do.
    pub checksum_offloads: u64,
    /// Sent packets that are cut into segments behind us.
    pub segmentation_offloads: u64,
    /// Sent packets that got a tag.
    pub tags_inserted: u64,
    /// Dropped: the other side takes no more at the moment.
    pub dropped_busy: u64,
    /// Dropped: the other side is down or gone.
    pub dropped_down: u64,
    /// Dropped: the other side failed in another way.
    pub dropped_error: u64,
    /// Refused: see [`TxStatus::MemoryFault`].
    pub memory_faults: u64,
    /// Refused: see [`TxStatus::TooLong`].
    pub too_long: u64,
    /// Refused: see [`TxStatus::BadHeaders`].
    pub bad_headers: u64,
}

/// Packets to the guest.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct RxCounters {
    /// Packets that were written to buffers, truncated ones too.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets whose checksum was completed here.
    pub checksums_completed: u64,
    /// Packets that did not fit their buffer.
    pub truncated: u64,
    /// Buffers that were not in guest memory.
    pub memory_faults: u64,
    /// Packets that were read from the other side and found no room.
    pub dropped: u64,
    /// Failed reads from the other side.
    pub errors: u64,
}

impl Counters {
    /// The number of them.
    pub(crate) const WORDS: usize = TxCounters::WORDS + RxCounters::WORDS + RefusedCounters::WORDS;
    /// Nothing was done yet.
    pub(crate) const ZERO: Self = zerocopy::transmute!([0_u64; Self::WORDS]);

    /// Returns them in a row, what was sent first. Saved states have such rows: what is added comes
    /// last.
    #[inline]
    pub(crate) fn words(&self) -> &[u64; Self::WORDS] {
        zerocopy::transmute_ref!(self)
    }

    /// Returns the counters that are such a row.
    pub(crate) fn from_words(words: [u64; Self::WORDS]) -> Self {
        zerocopy::transmute!(words)
    }

    /// Adds what another queue of the endpoint did.
    pub fn add(&mut self, other: &Self) {
        let mut sum = *self.words();
        let both = sum.iter_mut().zip(other.words());
        both.for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
        *self = Self::from_words(sum);
    }
}

impl TxCounters {
    /// The number of them.
    const WORDS: usize = 11;

    /// Returns how many packets were dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_busy + self.dropped_down + self.dropped_error
    }

    /// Counts a packet of `length` bytes that was sent or refused. Drops have
    /// reasons of their own, which whoever dropped it counts.
    pub fn count(&mut self, status: TxStatus, length: u64) {
        match status {
            TxStatus::Sent => {
                self.packets += 1;
                self.bytes += length;
            }
            TxStatus::MemoryFault => self.memory_faults += 1,
            TxStatus::TooLong => self.too_long += 1,
            TxStatus::BadHeaders => self.bad_headers += 1,
            TxStatus::Pending | TxStatus::Dropped => {}
        }
    }
}

impl RxCounters {
    /// The number of them.
    const WORDS: usize = 7;

    /// Counts a packet of `length` bytes that was written to a buffer.
    pub fn count(&mut self, length: u64, truncated: bool) {
        self.packets += 1;
        self.bytes += length;
        self.truncated += u64::from(truncated);
    }
}
