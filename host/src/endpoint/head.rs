//! The beginning of a frame, copied out of guest memory, where headers are
//! checked and changed out of the guest's reach.

use super::headers::TAG_BYTES;
use crate::memory::{Fault, GuestMemory, Segment, Span};

/// How much of a frame is copied to look for headers: an Ethernet header, two
/// tags, IP and TCP headers with all options are 142 bytes; what is left is
/// for IPv6 extension headers.
pub const HEAD_BYTES: usize = 256;

/// Offset of the EtherType, or of a tag before it.
const BEHIND_ADDRESSES: usize = 12;

/// The first bytes of a frame.
#[derive(Clone, Debug)]
pub struct Head {
    /// The frame begins `TAG_BYTES` in, so that there is room for a tag.
    bytes: [u8; TAG_BYTES + HEAD_BYTES],
    start: usize,
    end: usize,
    copied: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; TAG_BYTES + HEAD_BYTES],
            start: TAG_BYTES,
            end: TAG_BYTES,
            copied: 0,
        }
    }
}

impl Head {
    /// Copies the beginning of the frame that lies in `segments`.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if a segment can't be read.
    pub fn load(
        &mut self,
        memory: &GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<(), Fault> {
        let room = &mut self.bytes[TAG_BYTES..];
        let length = Span::new(segments).read(memory, room)?;
        self.start = TAG_BYTES;
        self.end = TAG_BYTES + length;
        self.copied = length;
        Ok(())
    }

    /// How much of the guest's frame was copied, whatever became of it here.
    pub fn copied(&self) -> usize {
        self.copied
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The bytes, to change them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Keeps the first `length` bytes at most.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
    }

    /// Inserts an 802.1Q tag behind the addresses. There must be an Ethernet
    /// header, and no tag inserted before.
    pub fn insert_tag(&mut self, tci: u16) {
        let start = self.start - TAG_BYTES;
        let addresses = self.start..self.start + BEHIND_ADDRESSES;
        self.bytes.copy_within(addresses, start);
        let tag = start + BEHIND_ADDRESSES;
        self.bytes[tag..tag + 2].copy_from_slice(&0x8100u16.to_be_bytes());
        self.bytes[tag + 2..tag + 4].copy_from_slice(&tci.to_be_bytes());
        self.start = start;
    }
}
