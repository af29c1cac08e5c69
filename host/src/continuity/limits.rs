//! The versions of a state, and its longest length.

/// The newest version; all up to it are read. Since version 2 a state may be an offer, which a
/// reader of version 1 would take for a device that was given away.
pub const VERSION: u32 = 2;
/// The version that is written for a device that is given away: the one before in a build for
/// tests, so that builds with different formats can replace each other.
pub const WRITES: u32 = if cfg!(feature = "first-format") { 1 } else { 2 };
/// The version of this build.
pub const BUILD: &str = if cfg!(feature = "first-format") {
    concat!(env!("CARGO_PKG_VERSION"), "+first-format")
} else {
    env!("CARGO_PKG_VERSION")
};
/// The longest state in bytes: the component's state, all regions of guest memory, and the
/// messages that a session has received.
pub const MAX_STATE: usize = 16 << 20;
