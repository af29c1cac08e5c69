//! The units of guest memory.

/// Size of a guest page, the granularity of regions and windows.
pub const PAGE_SIZE: u64 = 4096;

/// A contiguous range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address of the first byte; any alignment.
    pub address: u64,
    /// Length in bytes, at least 1.
    pub length: u32,
}
