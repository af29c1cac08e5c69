//! What an endpoint did, for people.

use serde::Serialize;

use super::packet::TxStatus;

/// What an endpoint did since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// From the guest.
    pub transmit: TxCounters,
    /// To the guest.
    pub receive: RxCounters,
}

/// Packets from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Adds what another queue of the endpoint did.
    pub fn add(&mut self, other: &Self) {
        self.transmit.add(&other.transmit);
        self.receive.add(&other.receive);
    }
}

impl TxCounters {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.checksum_offloads += other.checksum_offloads;
        self.segmentation_offloads += other.segmentation_offloads;
        self.tags_inserted += other.tags_inserted;
        self.dropped_busy += other.dropped_busy;
        self.dropped_down += other.dropped_down;
        self.dropped_error += other.dropped_error;
        self.memory_faults += other.memory_faults;
        self.too_long += other.too_long;
        self.bad_headers += other.bad_headers;
    }

    /// Packets that were dropped, for whatever reason.
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
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.checksums_completed += other.checksums_completed;
        self.truncated += other.truncated;
        self.memory_faults += other.memory_faults;
        self.dropped += other.dropped;
        self.errors += other.errors;
    }

    /// Counts a packet of `length` bytes that was written to a buffer.
    pub fn count(&mut self, length: u64, truncated: bool) {
        self.packets += 1;
        self.bytes += length;
        self.truncated += u64::from(truncated);
    }
}
