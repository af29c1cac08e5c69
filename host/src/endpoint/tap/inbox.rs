//! Frames that were read from a TAP and have no buffer yet.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::endpoint::headers::{ADDRESS_BYTES, Layout, TAG_BYTES, tag_control};
use crate::endpoint::packet::RxFlags;
use crate::endpoint::rx_flags::{self, LOOK_BYTES};
use crate::endpoint::vnet::{PartialChecksum, VNET_HEADER_BYTES, VnetHeader};
use crate::memory::{Calls, Outcome};

/// Room for a frame with the header before it. No TAP has an MTU over 65521
/// bytes, and none is asked to segment, so the longest frame is a little
/// longer. An odd number of cache lines, so that the beginnings of frames,
/// which are all that most of them are, spread over a cache.
const SLOT_BYTES: usize = 1027 * 64;

/// A frame as the guest is to have it.
#[derive(Debug)]
pub struct Arrived {
    /// Where it lies.
    range: Range<usize>,
    /// Where its headers are, if it holds an IP packet.
    pub layout: Option<Layout>,
    /// What is known of it.
    pub flags: RxFlags,
    /// What the tag that was taken out said, with [`RxFlags::VLAN`].
    pub vlan_tci: u16,
    /// The transport's checksum is known to be right.
    pub good: bool,
    /// The checksum that is left to do.
    pub open: Option<PartialChecksum>,
}

/// Frames in the order in which they were read, all copies of our own: what is
/// known of them stays true, whatever a guest does to its memory.
///
/// Of its memory, only what frames were read to is ever touched.
#[derive(Debug)]
pub struct Inbox {
    slots: Box<[u8]>,
    frames: VecDeque<Arrived>,
    outcomes: Vec<Outcome>,
    /// How many frames are likely to wait.
    likely: usize,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// How many frames came.
    pub count: usize,
    /// Why no more came: [`Errno::AGAIN`] if none waited at the time.
    pub end: Option<Errno>,
}

impl Inbox {
    /// Creates an empty one.
    pub fn new() -> Self {
        Self {
            // All zeros is what the kernel gives; nothing is touched here.
            slots: vec![0; Calls::BATCH * SLOT_BYTES].into_boxed_slice(),
            frames: VecDeque::with_capacity(Calls::BATCH),
            outcomes: Vec::with_capacity(Calls::BATCH),
            likely: 1,
        }
    }

    /// Returns whether no frame is in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Reads up to `most` frames, if it is empty. Each read that finds none
    /// costs a little too, so it tries about as many as there were of late.
    pub fn fetch(&mut self, calls: &mut Calls, tap: BorrowedFd<'_>, most: usize) -> Fetched {
        debug_assert!(self.is_empty(), "frames would be overwritten");
        let tries = self.likely.min(most).clamp(1, Calls::BATCH);
        let slots = self.slots.chunks_exact_mut(SLOT_BYTES).take(tries);
        calls.read(tap, slots, &mut self.outcomes);
        let mut end = None;
        for (index, outcome) in self.outcomes.iter().enumerate() {
            match *outcome {
                Ok(length) if length >= VNET_HEADER_BYTES => {
                    let start = index * SLOT_BYTES;
                    let frame = examine(&mut self.slots, start..start + length);
                    self.frames.push_back(frame);
                }
                Ok(_) => end = end.or(Some(Errno::IO)),
                // One that arrived just after may be behind it.
                Err(error) => end = end.or(Some(error)),
            }
        }
        let count = self.frames.len();
        self.likely = if count == tries { 4 * tries } else { count + 1 };
        self.likely = self.likely.min(Calls::BATCH);
        Fetched { count, end }
    }

    /// Returns the next frame, and its bytes.
    pub fn front(&mut self) -> Option<(&mut Arrived, &mut [u8])> {
        let frame = self.frames.front_mut()?;
        let bytes = &mut self.slots[frame.range.clone()];
        Some((frame, bytes))
    }

    /// Forgets the next frame.
    pub fn pop(&mut self) {
        self.frames.pop_front();
    }
}

/// Looks at what was read: header and frame. Takes the frame's 802.1Q tag out:
/// the kernel puts it into the frame that it hands out, while a driver's
/// buffers have room for a frame without one, and its hardware reports the tag
/// beside the frame.
fn examine(slots: &mut [u8], range: Range<usize>) -> Arrived {
    let (header, frame) = slots[range.clone()]
        .split_first_chunk_mut()
        .expect("as much as a header");
    let mut vnet = VnetHeader::received(header);
    let tag = tag_control(frame);
    let mut begin = 0;
    if tag.is_some() {
        begin = TAG_BYTES;
        frame.copy_within(..ADDRESS_BYTES, begin);
        if let Some(partial) = &mut vnet.partial {
            partial.start = partial.start.saturating_sub(TAG_BYTES as u16);
        }
    }
    let frame = &frame[begin..];
    let look = &frame[..frame.len().min(LOOK_BYTES)];
    let layout = Layout::parse(look);
    let mut flags = rx_flags::classify(look, layout.as_ref());
    if tag.is_some() {
        flags |= RxFlags::VLAN;
    }
    Arrived {
        layout,
        range: range.start + VNET_HEADER_BYTES + begin..range.end,
        flags,
        vlan_tci: tag.unwrap_or(0),
        good: vnet.data_valid && vnet.partial.is_none(),
        open: vnet.partial,
    }
}
