//! Why a session can't be continued.

/// Why a session can't be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSession {
    /// There are more bytes than a server ever buffers.
    #[error("{0} bytes are said to be received, and no server receives so much at a time")]
    TooLong(usize),
    /// There are more descriptors than a server ever holds.
    #[error("{0} descriptors are said to be received, and no server takes so many at a time")]
    TooMany(usize),
    /// A descriptor has no byte that it came with, or is out of order.
    #[error("a descriptor is said to have come with byte {0}, which can't be")]
    Place(u64),
    /// No server notes such a word.
    #[error("the word {0:#x} is said to tell how far a request was, and no server notes that")]
    Progress(u64),
    /// More than a server peeks at, or no message.
    #[error(
        "a request of {length} bytes behind {done} others is said to be in progress, and no \
         server takes so much before it consumes it"
    )]
    Request {
        /// Bytes that are said to be before it.
        done: u32,
        /// Its bytes.
        length: u32,
    },
    /// More than was there.
    #[error(
        "{done} of {peeked} bytes are said to be consumed, and no server takes so much before \
         it consumes it"
    )]
    Consuming {
        /// Bytes that are said to be consumed.
        done: u32,
        /// Bytes that are said to be there.
        peeked: u32,
    },
    /// Too short, too long, or of another length than it says.
    #[error("an answer of {0} bytes is said to be noted, and those are none")]
    Answer(usize),
}
