//! The receive buffer of a stream, split into frames.

use std::ops::Range;

use super::{MAX_FRAME, PREFIX_BYTES};
use crate::endpoint::headers::{ADDRESS_BYTES, ETHERNET_BYTES, Layout, TAG_BYTES, tag_control};
use crate::endpoint::packet::RxFlags;
use crate::endpoint::rx_flags::{self, LOOK_BYTES};

/// Room for the longest frame, and for many short ones.
const SIZE: usize = 128 << 10;

/// A frame as it is delivered to the guest.
#[derive(Debug)]
pub struct Arrived {
    range: Range<usize>,
    /// Where its headers are, if it holds an IP packet.
    pub layout: Option<Layout>,
    /// Its flags.
    pub flags: RxFlags,
    /// The tag control information of the removed tag, with [`RxFlags::VLAN`].
    pub vlan_tci: u16,
}

/// A length that no frame has: the rest of the stream can't be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// Bytes that were read and not delivered. The host's own memory, which no guest changes.
#[derive(Debug)]
pub struct Inbox {
    bytes: Box<[u8]>,
    /// The range of the bytes that were read.
    begin: usize,
    end: usize,
    /// The first frame, once it was parsed.
    front: Option<Arrived>,
}

impl Inbox {
    pub fn new() -> Self {
        Self {
            // The kernel provides zeroed memory; no page is touched here.
            bytes: vec![0; SIZE].into_boxed_slice(),
            begin: 0,
            end: 0,
            front: None,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.begin, self.end) = (0, 0);
        self.front = None;
    }

    /// Returns the buffer to read into. There is room, unless a frame is complete.
    pub fn room(&mut self) -> &mut [u8] {
        if self.begin > 0 {
            self.bytes.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Records that this many bytes were read into the [`room`](Self::room).
    pub fn fill(&mut self, count: usize) {
        self.end += count;
    }

    /// Parses the next frame. Returns whether it is complete. Skips and counts those that are
    /// shorter than a header.
    pub fn look(&mut self, short: &mut u64) -> Result<bool, TooLong> {
        while self.front.is_none() {
            let read = &self.bytes[self.begin..self.end];
            let Some(prefix) = read.first_chunk::<PREFIX_BYTES>() else {
                return Ok(false);
            };
            let length = u32::from_be_bytes(*prefix) as usize;
            if length > MAX_FRAME {
                return Err(TooLong(length));
            }
            if read.len() < PREFIX_BYTES + length {
                return Ok(false);
            }
            let at = self.begin + PREFIX_BYTES;
            self.begin = at + length;
            if length < ETHERNET_BYTES {
                *short += 1;
                continue;
            }
            self.front = Some(examine(&mut self.bytes, at..at + length));
        }
        Ok(true)
    }

    /// Returns the parsed frame, and its bytes.
    pub fn front(&self) -> Option<(&Arrived, &[u8])> {
        let front = self.front.as_ref()?;
        Some((front, &self.bytes[front.range.clone()]))
    }

    /// Forgets that frame.
    pub fn pop(&mut self) {
        self.front = None;
    }
}

/// Parses a frame, and removes its 802.1Q tag, as a network card does.
fn examine(bytes: &mut [u8], range: Range<usize>) -> Arrived {
    let tag = tag_control(&bytes[range.clone()]);
    let mut begin = range.start;
    if tag.is_some() {
        begin += TAG_BYTES;
        bytes.copy_within(range.start..range.start + ADDRESS_BYTES, begin);
    }
    let frame = &bytes[begin..range.end];
    let look = &frame[..frame.len().min(LOOK_BYTES)];
    let layout = Layout::parse(look);
    let mut flags = rx_flags::classify(look, layout.as_ref());
    flags.set(RxFlags::VLAN, tag.is_some());
    Arrived {
        range: begin..range.end,
        layout,
        flags,
        vlan_tci: tag.unwrap_or(0),
    }
}
