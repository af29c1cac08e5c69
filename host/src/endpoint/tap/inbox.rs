//! Frames that were read from a TAP and not delivered yet.

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

/// A frame as it is delivered to the guest.
#[derive(Debug)]
pub struct Arrived {
    /// Its range of bytes.
    range: Range<usize>,
    /// Where its headers are, if it holds an IP packet.
    pub layout: Option<Layout>,
    /// Its flags.
    pub flags: RxFlags,
    /// The tag control information of the removed tag, with [`RxFlags::VLAN`].
    pub vlan_tci: u16,
    /// Whether the transport's checksum is known to be right.
    pub good: bool,
    /// The checksum that is still to be computed.
    pub open: Option<PartialChecksum>,
}

/// Frames in the order in which they were read. They are copies in the host's own memory, which no
/// guest changes.
///
/// Of its memory, only what frames were read to is ever touched.
#[derive(Debug)]
pub struct Inbox {
    slots: Box<[u8]>,
    frames: VecDeque<Arrived>,
    outcomes: Vec<Outcome>,
    /// The expected number of waiting frames.
    likely: usize,
}

/// The outcome of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// How many frames were read.
    pub count: usize,
    /// Why reading ended: [`Errno::AGAIN`] if no more frames waited.
    pub end: Option<Errno>,
}

impl Inbox {
    /// Creates an empty one.
    pub fn new() -> Self {
        Self {
            // The kernel provides zeroed memory; no page is touched here.
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

    /// Reads up to `most` frames, if it is empty. A read that finds none costs a little too, so it
    /// tries about as many as there were recently.
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

/// Parses a header and a frame. Removes the frame's 802.1Q tag: the kernel delivers it in the
/// frame, while a driver's buffers have room for a frame without one, and its hardware reports
/// the tag as metadata.
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
