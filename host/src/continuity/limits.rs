//! The versions of a state, and how long one is.

/// The newest version. All up to it are read. Since version 2 a state may be an offer: whoever
/// does not know that must not take it for a device that was given away.
pub const VERSION: u32 = 2;
/// The version that is written of a device that is given away: the one before in a build for
/// tests, so that two builds of different formats can take turns.
pub const WRITES: u32 = if cfg!(feature = "first-format") { 1 } else { 2 };
/// The version of this build.
pub const BUILD: &str = if cfg!(feature = "first-format") {
    concat!(env!("CARGO_PKG_VERSION"), "+first-format")
} else {
    env!("CARGO_PKG_VERSION")
};
/// The longest state in bytes: the component's own, all regions of guest memory, and what a
/// session has received.
pub const MAX_STATE: usize = 16 << 20;
