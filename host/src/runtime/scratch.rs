//! Where the lists of a call are copied to.

use wasmtime::Result;

use super::bounds;
use crate::contract::{RxBuffer, Segment, TxPacket, TxStatus};

/// What the lists of a call are copied to; keeps its allocation between calls, as
/// far as it is a usual one.
#[derive(Debug, Default)]
pub struct Scratch {
    pub packets: Vec<TxPacket>,
    pub buffers: Vec<RxBuffer>,
    pub segments: Vec<Segment>,
    /// Of a batch that was transmitted; empty if all of it was sent.
    pub statuses: Vec<TxStatus>,
}

impl Scratch {
    /// Items of a list that are kept room for.
    const USUAL: usize = 2048;

    /// Checks the lengths of the lists that a call passes.
    ///
    /// # Errors
    ///
    /// One is longer than the contract allows.
    #[inline]
    pub fn check(packets: usize, segments: usize) -> Result<()> {
        bounds::check("packets of a call", packets, bounds::PACKETS)?;
        bounds::check("segments of a call", segments, bounds::SEGMENTS)
    }

    /// Gives back what an unusual call has taken.
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
