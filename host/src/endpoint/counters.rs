//! The counters of an endpoint, for people.
//!
//! The counters form an array of numbers, each with a name: operations on all of them use
//! the [array](Counters::words).

use serde::Serialize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::packet::TxStatus;
use super::policy::RefusedCounters;

/// The counters of an endpoint since it was opened.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Counters {
    /// Packets from the guest.
    pub transmit: TxCounters,
    /// Packets to the guest.
    pub receive: RxCounters,
    /// Packets that its policy refused.
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
    /// Their bytes, as passed by the guest.
    pub bytes: u64,
    /// Sent packets whose checksum was offloaded.
    pub checksum_offloads: u64,
    /// Sent packets that the other side segments.
    pub segmentation_offloads: u64,
    /// Sent packets into which a tag was inserted.
    pub tags_inserted: u64,
    /// Dropped: the other side accepts no more at the moment.
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
    /// Packets that were read from the other side and found no posted buffer.
    pub dropped: u64,
    /// Failed reads from the other side.
    pub errors: u64,
}

impl Counters {
    /// The number of counters.
    pub(crate) const WORDS: usize = TxCounters::WORDS + RxCounters::WORDS + RefusedCounters::WORDS;
    /// All zeros.
    pub(crate) const ZERO: Self = zerocopy::transmute!([0_u64; Self::WORDS]);

    /// Returns them as an array, transmit counters first. Saved states contain it: new counters are
    /// appended.
    #[inline]
    pub(crate) fn words(&self) -> &[u64; Self::WORDS] {
        zerocopy::transmute_ref!(self)
    }

    /// Returns the counters of such an array.
    pub(crate) fn from_words(words: [u64; Self::WORDS]) -> Self {
        zerocopy::transmute!(words)
    }

    /// Adds the counters of another queue of the endpoint.
    pub fn add(&mut self, other: &Self) {
        let mut sum = *self.words();
        let both = sum.iter_mut().zip(other.words());
        both.for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
        *self = Self::from_words(sum);
    }
}

impl TxCounters {
    /// The number of counters.
    const WORDS: usize = 11;

    /// Returns how many packets were dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_busy + self.dropped_down + self.dropped_error
    }

    /// Counts a packet of `length` bytes that was sent or refused. A drop is counted by its reason,
    /// where it happens.
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
    /// The number of counters.
    const WORDS: usize = 7;

    /// Counts a packet of `length` bytes that was written to a buffer.
    pub fn count(&mut self, length: u64, truncated: bool) {
        self.packets += 1;
        self.bytes += length;
        self.truncated += u64::from(truncated);
    }
}
