//! The limits of a PCI function.

use mana_wire::gdma::Status;
use mana_wire::queue::PAGE_SIZE;

/// Queue pairs of all vports together: 64 of each for 16 vports.
pub const MAX_PAIRS: u16 = 1024;
/// Event queues: the hardware channel's, and one for each queue pair, for drivers that
/// share none among vports.
pub const MAX_EQS: usize = MAX_PAIRS as usize + 1;
/// Send queues, and as many receive queues: the hardware channel's, and one for
/// each queue pair.
pub const MAX_WQS: usize = MAX_PAIRS as usize + 1;
/// Completion queues: one for each work queue.
pub const MAX_CQS: usize = 2 * MAX_WQS;
/// MSI-X vectors: the hardware channel's, and one for each queue pair of a vport.
/// Vports share them: Linux gives each its own only if there are enough for all
/// (`mana_gd_query_max_resources`). The number is a property of the PCI function, and
/// so does not depend on the ports.
pub const MAX_VECTORS: u16 = MAX_QUEUES + 1;
/// Registered regions that no queue uses yet.
pub const MAX_REGIONS: usize = 1024;
/// Pages of one region: 16 MiB.
pub const MAX_REGION_PAGES: u32 = 4096;
/// Pages of all regions and queues together: 256 MiB.
pub const MAX_PAGES: usize = 65536;
/// Pages of the hardware channel's queues, for which no region is registered.
pub const CHANNEL_PAGES: usize = 4;
/// Vports (`MAX_PORTS_IN_MANA_DEV`).
pub const MAX_VPORTS: usize = 256;
/// Send queues of a vport, and as many receive queues (`MANA_MAX_NUM_QUEUES`).
pub const MAX_QUEUES: u16 = 64;
/// Receive buffers that the host holds of all queues together, so that a saved
/// state, which lists them, stays within its bound.
pub const MAX_BUFFERS: usize = 1 << 17;
/// Entries of the largest indirection table: with more, a request would be longer
/// than a message of the hardware channel.
pub const MAX_INDIRECTION_ENTRIES: u16 = 256;
/// Vport offset in transmit OOBs, the same for every vport of this function.
pub const TX_VPORT_OFFSET: u16 = 0;

/// The size and offset that a driver requests for a region.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes.
    pub length: u64,
    /// Offset of the first byte in the first page.
    pub offset_in_page: u32,
    /// Pages of the whole region.
    pub page_count: u32,
}

impl Shape {
    /// Checks that such a region is possible.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidParameter`] if the numbers contradict each other,
    /// [`Status::NoResources`] if it is too large.
    pub fn check(self) -> Result<(), Status> {
        let end = u64::from(self.offset_in_page).checked_add(self.length);
        let pages = end.map(|end| end.div_ceil(PAGE_SIZE.into()));
        if self.length == 0
            || self.offset_in_page >= PAGE_SIZE
            || pages != Some(self.page_count.into())
        {
            return Err(Status::InvalidParameter);
        }
        if self.page_count > MAX_REGION_PAGES {
            Err(Status::NoResources)
        } else {
            Ok(())
        }
    }
}
