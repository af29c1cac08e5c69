//! Why a device that was handed over can't be read.

use super::MAX_NOTES;
use super::limits::{MAX_STATE, VERSION};

/// Why a device that another process gave away can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// A descriptor that the state names did not come along.
    #[error("the descriptor `{0}` is missing: hand over all that the predecessor gave")]
    Missing(String),
    /// Two descriptors have the same name.
    #[error("there are two descriptors `{0}`")]
    Twice(String),
    /// The state can't be read.
    #[error("reading the state: {0}")]
    Read(#[from] std::io::Error),
    /// The file is no state, or the state is cut off.
    #[error("it is no state of a device that was handed over: {0}")]
    NoState(&'static str),
    /// The state is longer than any can be.
    #[error("the state has {0} bytes, and none has more than {MAX_STATE}")]
    TooLong(u64),
    /// The state has an unknown version, of a newer build for example.
    #[error(
        "the state has version {0}, and this build reads up to version {VERSION}: start the build \
         that wrote it, or a newer one"
    )]
    Version(u32),
    /// The state's bytes are not those that were written.
    #[error("the state was changed since it was written: its checksum differs")]
    Checksum,
    /// A successor began to take over and has ended since.
    #[error(
        "a successor has taken the device over and ended since: the state is older than what the \
         guest has seen"
    )]
    Taken,
    /// The checksum is right, and the contents are invalid.
    #[error("the state is invalid: {0}")]
    Malformed(String),
}

impl From<minicbor::decode::Error> for OfferError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl OfferError {
    /// Returns the error about a count above its bound.
    pub(super) fn too_many(what: &str, count: usize, most: usize) -> Self {
        Self::Malformed(format!(
            "it has {count} {what}, and there are {most} at most"
        ))
    }

    /// Returns the error about notes that are too long.
    pub(super) fn notes(length: usize) -> Self {
        Self::too_many("bytes of notes", length, MAX_NOTES)
    }
}
