//! The layout of the file.

use super::cells::CELL;
use super::section::Section;
use crate::endpoint::MAX_QUEUES;
use crate::memory::GuestMemory;

/// The magic number at the beginning of the file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"manalive");
/// The version of the layout. Others are refused.
pub const VERSION: u64 = 2;

/// Cells of the first page.
pub const MAGIC_AT: usize = 0;
pub const VERSION_AT: usize = CELL;
/// A [`Phase`](super::Phase).
pub const PHASE_AT: usize = 2 * CELL;
/// The number of the VMM's request in progress.
pub const REQUEST_AT: usize = 3 * CELL;
/// The progress of that request.
pub const PROGRESS_AT: usize = 4 * CELL;
/// Whether the VMM has sent a request.
pub const ATTACHED_AT: usize = 5 * CELL;
/// The length of the answer to the request in progress.
pub const ANSWER_LENGTH_AT: usize = 6 * CELL;
/// The WQE that the component announced (`attempt`), plus 1; 0 if none.
pub const ATTEMPT_AT: usize = 7 * CELL;
/// The removal of regions in progress: the first address, the last one, and the number of the
/// request plus 1; 0 if there is none.
pub const REMOVAL_AT: usize = 8 * CELL;

const PAGE: usize = 4096;
/// The ports whose last packets are recorded.
pub const MAX_PORTS: usize = 256;
const QUEUES: usize = MAX_QUEUES as usize;
/// The last packet that was handed to each queue ([`HANDED`](super::cells::HANDED)).
const HANDED_AT: usize = PAGE;

/// The longest answer to a VMM.
pub const MAX_ANSWER: usize = 64 << 10;
/// The answer to the request in progress.
pub const ANSWER_AT: usize = HANDED_AT + MAX_PORTS * QUEUES * CELL;

/// The device's state after its last change.
pub const DEVICE: Section = Section {
    offset: ANSWER_AT + MAX_ANSWER,
    capacity: 4 << 20,
};
/// The VMM's connection.
pub const SESSION: Section = Section {
    offset: DEVICE.offset + DEVICE.size(),
    capacity: PAGE,
};
/// The VMM's eventfds.
pub const VECTORS: Section = Section {
    offset: SESSION.offset + SESSION.size(),
    capacity: 64 << 10,
};
/// The caller's notes.
pub const NOTES: Section = Section {
    offset: VECTORS.offset + VECTORS.size(),
    capacity: crate::continuity::MAX_NOTES,
};

/// The most doorbells in a table: there is one for each copy of [`DEVICE`].
pub const MAX_DOORBELLS: usize = 8192;
/// The cells of a doorbell: BAR, offset, value.
pub const DOORBELL_CELLS: usize = 3;
/// The bytes of a table: a count, and the doorbells.
const DOORBELLS_SIZE: usize = CELL + MAX_DOORBELLS * DOORBELL_CELLS * CELL;
const DOORBELLS_AT: usize = NOTES.offset + NOTES.size();

/// The most regions of guest memory.
pub const MAX_REGIONS: usize = GuestMemory::MAX_REGIONS;
/// The cells of a region: see [`regions`](super::regions).
pub const REGION_CELLS: usize = 6;
const REGIONS_AT: usize = DOORBELLS_AT + 2 * DOORBELLS_SIZE;

/// The length of the file.
pub const LENGTH: usize = (REGIONS_AT + MAX_REGIONS * REGION_CELLS * CELL).next_multiple_of(PAGE);

/// Returns the offset of the cell with the last packet handed to a queue.
pub fn handed(port: usize, queue: usize) -> usize {
    HANDED_AT + (port * QUEUES + queue) * CELL
}

/// Returns the offset of a copy's table of doorbells.
pub fn doorbells(copy: usize) -> usize {
    DOORBELLS_AT + copy * DOORBELLS_SIZE
}

/// Returns the offset of a region's cells.
pub fn region(slot: usize) -> usize {
    REGIONS_AT + slot * REGION_CELLS * CELL
}
