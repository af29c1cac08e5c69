//! The receive buffers that a device posted and the host still holds.

use std::collections::VecDeque;

use super::completions::Completions;
use super::packet::{RxBuffer, RxFlags, RxPacket};
use crate::memory::Segment;

/// Posted receive buffers, first in first out.
#[derive(Debug)]
pub struct RxQueue {
    buffers: VecDeque<RxBuffer>,
    segments: Segments,
    most: usize,
}

/// The segments of all buffers, first in first out. They are contiguous, so that
/// those of a buffer are one slice.
#[derive(Debug, Default)]
struct Segments {
    all: Vec<Segment>,
    /// The number of those at the front that were consumed.
    gone: usize,
}

impl Default for RxQueue {
    fn default() -> Self {
        Self {
            buffers: VecDeque::new(),
            segments: Segments::default(),
            most: Self::MAX_BUFFERS,
        }
    }
}

/// The outcome of filling a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Length of the frame in bytes, even if it did not fit.
    pub length: u32,
    /// What is known of it.
    pub flags: RxFlags,
    /// The tag control information of a tag that was removed, with [`RxFlags::VLAN`].
    pub vlan_tci: u16,
    /// The hash, with [`RxFlags::HASH_L3`] or [`RxFlags::HASH_L4`].
    pub hash: u32,
}

impl Received {
    /// A buffer that is not in guest memory.
    pub const FAULT: Self = Self {
        length: 0,
        flags: RxFlags::MEMORY_FAULT,
        vlan_tci: 0,
        hash: 0,
    };
}

/// The buffer at the front of an [`RxQueue`].
#[derive(Debug)]
pub struct Posted<'a> {
    queue: &'a mut RxQueue,
}

impl RxQueue {
    /// The most buffers that a queue holds.
    pub const MAX_BUFFERS: usize = 4096;
    /// The most segments that all buffers of a queue have together.
    pub const MAX_SEGMENTS: usize = 16 * Self::MAX_BUFFERS;

    /// Buffers and segments for which memory is kept.
    const USUAL: usize = 512;

    /// Creates an empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the queue to this many buffers, and to [`MAX_BUFFERS`](Self::MAX_BUFFERS), for an
    /// endpoint that can't use more. Buffers that it holds already stay.
    pub fn limit(&mut self, most: usize) {
        self.most = most.min(Self::MAX_BUFFERS);
    }

    /// Adds as many buffers as fit, from the front, with their segments. Returns how many, or None
    /// if the segments do not add up.
    pub fn post(&mut self, buffers: &[RxBuffer], segments: &[Segment]) -> Option<u32> {
        let claimed: usize = buffers.iter().map(|b| usize::from(b.segments)).sum();
        if claimed != segments.len() || buffers.iter().any(|b| b.segments == 0) {
            return None;
        }
        let (mut taken, mut used) = (0, 0);
        for buffer in buffers {
            let end = used + usize::from(buffer.segments);
            let full = self.buffers.len() + taken >= self.most;
            if full || self.segments.len() + end > Self::MAX_SEGMENTS {
                break;
            }
            (taken, used) = (taken + 1, end);
        }
        self.buffers.extend(&buffers[..taken]);
        self.segments.push(&segments[..used]);
        Some(taken as u32)
    }

    /// Returns all buffers, from the front, and their segments.
    pub fn posted(&self) -> (Vec<RxBuffer>, Vec<Segment>) {
        let buffers = self.buffers.iter().copied();
        (
            buffers.collect(),
            self.segments.first(self.segments.len()).to_vec(),
        )
    }

    /// Returns the buffer to fill next.
    pub fn front(&mut self) -> Option<Posted<'_>> {
        (!self.buffers.is_empty()).then_some(Posted { queue: self })
    }

    /// Copies the buffers to fill next, up to `most` of them, with their segments.
    pub(super) fn copy_front(
        &self,
        most: usize,
        buffers: &mut Vec<RxBuffer>,
        segments: &mut Vec<Segment>,
    ) {
        let first = buffers.len();
        buffers.extend(self.buffers.iter().take(most));
        let count = buffers[first..].iter().map(|b| usize::from(b.segments));
        segments.extend_from_slice(self.segments.first(count.sum()));
    }

    /// Returns the number of buffers.
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Returns whether no buffer is posted.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Removes every buffer, and frees unusually large allocations.
    pub fn clear(&mut self) {
        self.buffers.clear();
        self.buffers.shrink_to(Self::USUAL);
        self.segments.clear();
        self.segments.all.shrink_to(Self::USUAL);
    }
}

impl Segments {
    fn len(&self) -> usize {
        self.all.len() - self.gone
    }

    fn push(&mut self, segments: &[Segment]) {
        // Consumed segments are removed once they are the larger part: each segment moves at most
        // once for each consumed one.
        if self.gone > self.len() {
            self.all.drain(..self.gone);
            self.gone = 0;
        }
        self.all.extend_from_slice(segments);
    }

    #[inline]
    fn first(&self, count: usize) -> &[Segment] {
        &self.all[self.gone..][..count]
    }

    #[inline]
    fn pop(&mut self, count: usize) {
        self.gone += count;
        if self.gone == self.all.len() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.all.clear();
        self.gone = 0;
    }
}

impl Posted<'_> {
    /// Returns its segments.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = Segment> + Clone + '_ {
        self.queue.segments.first(self.count()).iter().copied()
    }

    /// Returns its size in bytes.
    #[inline]
    pub fn capacity(&self) -> u64 {
        self.segments().map(|s| u64::from(s.length)).sum()
    }

    /// Removes it from the queue and adds its completion.
    #[inline]
    pub fn complete(self, received: Received, done: &mut Completions) {
        self.queue.segments.pop(self.count());
        if let Some(buffer) = self.queue.buffers.pop_front() {
            let Received {
                length,
                flags,
                vlan_tci,
                hash,
            } = received;
            done.received.push(RxPacket {
                id: buffer.id,
                length,
                vlan_tci,
                flags,
                hash,
            });
        }
    }

    #[inline]
    fn count(&self) -> usize {
        self.queue.buffers.front().map_or(0, |b| b.segments.into())
    }
}

#[cfg(test)]
mod tests;
