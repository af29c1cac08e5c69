//! What was read of a stream, cut into frames.

use std::ops::Range;

use super::{MAX_FRAME, PREFIX_BYTES};
use crate::endpoint::headers::{ADDRESS_BYTES, ETHERNET_BYTES, Layout, TAG_BYTES, tag_control};
use crate::endpoint::packet::RxFlags;
use crate::endpoint::rx_flags::{self, LOOK_BYTES};

/// Room for the longest frame, and for many short ones.
const SIZE: usize = 128 << 10;

/// A frame as the guest is to have it.
#[derive(Debug)]
pub struct Arrived {
    range: Range<usize>,
    /// Where its headers are, if it holds an IP packet.
    pub layout: Option<Layout>,
    /// What is known of it.
    pub flags: RxFlags,
    /// What the tag that was taken out said, with [`RxFlags::VLAN`].
    pub vlan_tci: u16,
}

/// A length that no frame has: what follows can't be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// What was read and not delivered. Memory of our own: what is known of it stays true.
#[derive(Debug)]
pub struct Inbox {
    bytes: Box<[u8]>,
    /// Where what was read lies.
    begin: usize,
    end: usize,
    /// The first frame of it, once it was looked at.
    front: Option<Arrived>,
}

impl Inbox {
    pub fn new() -> Self {
        Self {
            // All zeros is what the kernel gives; nothing is touched here.
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

    /// Returns where to read to. There is room, unless a frame is complete.
    pub fn room(&mut self) -> &mut [u8] {
        if self.begin > 0 {
            self.bytes.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that so many bytes were read to the [`room`](Self::room).
    pub fn fill(&mut self, count: usize) {
        self.end += count;
    }

    /// Looks at the next frame. Returns whether there is one: false if it is not complete.
    /// Those that are shorter than a header are passed over, and counted.
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

    /// Returns the frame that was looked at, and its bytes.
    pub fn front(&self) -> Option<(&Arrived, &[u8])> {
        let front = self.front.as_ref()?;
        Some((front, &self.bytes[front.range.clone()]))
    }

    /// Forgets that frame.
    pub fn pop(&mut self) {
        self.front = None;
    }
}

/// Looks at a frame, and takes its 802.1Q tag out, as a network card does.
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
