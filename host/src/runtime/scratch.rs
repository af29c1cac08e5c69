//! The buffers into which the lists of a call are copied.

use wasmtime::Result;

use super::bounds;
use crate::contract::{RxBuffer, Segment, TxPacket, TxStatus};

/// The buffers into which the lists of a call are copied; keeps its allocations between calls, up
/// to the usual size.
#[derive(Debug, Default)]
pub struct Scratch {
    pub packets: Vec<TxPacket>,
    pub buffers: Vec<RxBuffer>,
    pub segments: Vec<Segment>,
    /// The statuses of a transmitted batch; empty if all of it was sent.
    pub statuses: Vec<TxStatus>,
}

impl Scratch {
    /// The number of items whose memory is kept.
    const USUAL: usize = 2048;

    /// Checks the lengths of the lists that a call passes.
    ///
    /// # Errors
    ///
    /// If one is longer than the contract allows.
    #[inline]
    pub fn check(packets: usize, segments: usize) -> Result<()> {
        bounds::check("packets of a call", packets, bounds::PACKETS)?;
        bounds::check("segments of a call", segments, bounds::SEGMENTS)
    }

    /// Frees the memory that an unusual call has taken.
    #[inline]
    pub fn trim(&mut self) {
        if self.segments.capacity() > Self::USUAL || self.packets.capacity() > Self::USUAL {
            self.segments = Vec::new();
            self.packets = Vec::new();
            self.buffers = Vec::new();
            self.statuses.shrink_to(Self::USUAL);
        }
    }
}
