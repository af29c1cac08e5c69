//! The version of a state, and how long one is.

/// The version that is written. Older ones are read.
pub const VERSION: u32 = 1;
/// The longest state in bytes: the component's own, all regions of guest memory, and what a
/// session has received.
pub const MAX_STATE: usize = 16 << 20;
