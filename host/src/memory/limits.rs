//! Limits on guest memory.

/// The most regions of a device ([`GuestMemory::MAX_REGIONS`](super::GuestMemory::MAX_REGIONS)).
pub const MAX_REGIONS: usize = 65_535;
/// The most regions of all devices of a process.
pub const MAX_REGIONS_OF_PROCESS: u64 = 1 << 20;
/// The most files that a device maps; one that has grown counts again as long as there are
/// regions in its earlier mapping.
pub const MAX_FILES: u64 = 4096;
/// The most bytes of files that a process maps: half of the address space.
pub const MAX_MAPPED_BYTES: u64 = 1 << 46;
