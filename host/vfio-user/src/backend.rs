//! The PCI function that a VMM drives, as vfio sees it.

use std::fs::File;
use std::ops::Range;

use rustix::io::Errno;

/// Size of a function's configuration space in bytes (PCI Express, 7.2).
pub const CONFIG_SPACE_SIZE: u64 = 4096;
/// Ranges of guest memory that a client may share at a time, unless it is told a lower number
/// (`max_dma_maps` of the vfio-user specification). A [`Backend`] must accept this many.
pub const MAX_DMA_MAPS: usize = 65_535;

/// Guest memory that a VMM shares.
#[derive(Debug)]
pub struct MemoryMap {
    /// Guest address of the first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// The file that holds it, and the offset of the first byte in it. None if the VMM announces
    /// memory without sharing it.
    pub file: Option<(File, u64)>,
    /// Whether the device may write it.
    pub writable: bool,
}

/// Why a backend refused a request.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The error that the VMM is answered with.
    pub errno: Errno,
    /// The reason, for the log.
    pub reason: String,
}

/// A PCI function that a VMM drives. Calls come from the thread of
/// [`Server::serve`](crate::Server::serve), one at a time.
pub trait Backend {
    /// Returns the size of a BAR in bytes, 0 if there is none.
    fn bar_size(&self, bar: u8) -> u64;

    /// Reads a BAR. What does not exist reads as all ones or zeros, as on a bus.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes a BAR.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]);

    /// Reads configuration space.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// Writes configuration space.
    fn config_write(&self, offset: u64, data: &[u8]);

    /// Maps guest memory. Returns whether its file may shrink while it is shared; if it does,
    /// the VMM loses its device.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing changes.
    fn map_memory(&self, map: MemoryMap) -> Result<bool, Refused>;

    /// Unmaps a range of guest memory that was mapped as a whole. When it returns, the device
    /// can't reach it any more.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing changes.
    fn unmap_memory(&self, address: u64, size: u64) -> Result<(), Refused>;

    /// Unmaps all guest memory, as [`unmap_memory`](Self::unmap_memory) does.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    fn unmap_all_memory(&self) -> Result<(), Refused>;

    /// Raises MSI-X vectors that the VMM asks for.
    fn raise(&self, vectors: Range<u16>);

    /// Resets the function.
    fn reset(&self);

    /// Notes that a VMM is attached: it has sent its first request.
    fn attach(&self) {}

    /// Returns whether the session may be handed over to another process now. Called between two
    /// requests, repeatedly until it returns true.
    fn may_be_handed_over(&self) -> bool {
        true
    }

    /// Resets the function and forgets all guest memory: the VMM is gone.
    fn detach(&self);
}
