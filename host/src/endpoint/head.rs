//! The beginning of a frame, copied out of guest memory, where headers are
//! checked and changed out of the guest's reach.

use super::headers::{ADDRESS_BYTES, TAG_BYTES};
use super::vnet::VNET_HEADER_BYTES;
use crate::memory::{Fault, GuestMemory, Segment, Span};

/// How much of a frame must be copied to look for headers: an Ethernet header,
/// two tags, IP and TCP headers with all options are 142 bytes; what is left
/// is for IPv6 extension headers.
pub const HEAD_BYTES: usize = 256;

/// What is kept free before a frame: room for a virtio-net header and a tag.
const BEFORE: usize = VNET_HEADER_BYTES + TAG_BYTES;

/// Size of a [`Head`] that holds [`HEAD_BYTES`] of a frame.
const SMALL: usize = BEFORE + HEAD_BYTES;

/// The first bytes of a frame, in `SIZE` bytes with what may go before it.
#[derive(Clone, Debug)]
pub struct Head<const SIZE: usize = SMALL> {
    bytes: [u8; SIZE],
    start: usize,
    end: usize,
    copied: usize,
}

impl<const SIZE: usize> Default for Head<SIZE> {
    fn default() -> Self {
        Self {
            bytes: [0; SIZE],
            start: BEFORE,
            end: BEFORE,
            copied: 0,
        }
    }
}

impl<const SIZE: usize> Head<SIZE> {
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
        let room = &mut self.bytes[BEFORE..];
        let length = Span::new(segments).read(memory, room)?;
        self.start = BEFORE;
        self.end = BEFORE + length;
        self.copied = length;
        Ok(())
    }

    /// Returns how many bytes of the guest's frame were copied, whatever was changed since.
    pub fn copied(&self) -> usize {
        self.copied
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Returns the bytes, to change them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Returns the bytes with a virtio-net header before them.
    pub fn behind(&mut self, header: [u8; VNET_HEADER_BYTES]) -> &[u8] {
        let begin = self.start - VNET_HEADER_BYTES;
        self.bytes[begin..self.start].copy_from_slice(&header);
        &self.bytes[begin..self.end]
    }

    /// Truncates it to `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
    }

    /// Inserts an 802.1Q tag after the addresses. There must be an Ethernet header, and no tag
    /// inserted before.
    pub fn insert_tag(&mut self, tci: u16) {
        let start = self.start - TAG_BYTES;
        let addresses = self.start..self.start + ADDRESS_BYTES;
        self.bytes.copy_within(addresses, start);
        let tag = start + ADDRESS_BYTES;
        self.bytes[tag..tag + 2].copy_from_slice(&0x8100u16.to_be_bytes());
        self.bytes[tag + 2..tag + 4].copy_from_slice(&tci.to_be_bytes());
        self.start = start;
    }
}
