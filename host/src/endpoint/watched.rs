//! Shows packets that pass a port to a watcher.
//!
//! A watched queue is wrapped in [`Watched`], which shows its packets. The wrapper is added when
//! watching begins, and removed when it ends, so that ports without a watcher pay nothing.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::batch::TxBatch;
use super::checksum;
use super::completions::Completions;
use super::counters::Counters;
use super::head::Head;
use super::headers::{ADDRESS_BYTES, TAG_BYTES};
use super::null::NullQueue;
use super::offload::{self, Request};
use super::packet::{RxBuffer, RxFlags, RxPacket, TxPacket, TxStatus};
use super::queue::{Queue, QueueIo, RECEIVE_BUDGET};
use super::rx_queue::RxQueue;
use super::vnet::GsoType;
use crate::memory::{GuestMemory, Segment, Span};

/// The most buffers that one call is expected to fill: with packets from other queues, and with
/// received ones.
const MOST_FILLED: usize = 8 * RECEIVE_BUDGET;

/// The direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest sent it.
    FromGuest,
    /// It was written to a receive buffer.
    ToGuest,
}

/// A packet that passed a port: its beginning is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'a> {
    /// Its direction.
    pub direction: Direction,
    /// The queue of the port.
    pub queue: u16,
    /// Its length on the wire in bytes, tags included. One that is to be segmented is shown
    /// whole.
    pub length: u32,
    /// Its first bytes, as on the wire.
    pub bytes: &'a [u8],
}

/// A watcher of a port's packets.
pub trait Watcher: Send + Sync {
    /// Returns the maximum number of bytes of a packet to show.
    fn most(&self) -> usize;

    /// Handles a packet. It is called with the device locked, so it must neither wait nor call the
    /// device.
    fn look(&self, packet: &Passed<'_>);
}

/// Attaches a watcher to a queue with this number. Returns whether there was none.
pub(crate) fn watch(queue: &mut Box<dyn Queue>, number: u16, watcher: &Arc<dyn Watcher>) -> bool {
    if is_watched(&**queue) {
        return false;
    }
    let own = std::mem::replace(queue, Box::new(NullQueue::default()));
    *queue = Box::new(Watched {
        queue: own,
        ahead: Ahead::default(),
        show: Show {
            number,
            watcher: watcher.clone(),
            head: Head::default(),
            bytes: Vec::new(),
        },
    });
    true
}

/// Ends watching a queue.
pub(crate) fn unwatch(queue: &mut Box<dyn Queue>) {
    if is_watched(&**queue) {
        let watched = std::mem::replace(queue, Box::new(NullQueue::default()));
        let watched: Box<dyn Any> = watched;
        if let Ok(watched) = watched.downcast::<Watched>() {
            *queue = watched.queue;
        }
    }
}

/// Returns whether somebody watches a queue.
fn is_watched(queue: &(dyn Queue + 'static)) -> bool {
    let queue: &dyn Any = queue;
    queue.is::<Watched>()
}

/// A queue that somebody watches.
struct Watched {
    queue: Box<dyn Queue>,
    ahead: Ahead,
    show: Show,
}

/// The buffers that are filled next: the queue forgets their addresses when it fills them.
#[derive(Default)]
struct Ahead {
    buffers: Vec<RxBuffer>,
    segments: Vec<Segment>,
}

/// Shows packets to a watcher.
struct Show {
    number: u16,
    watcher: Arc<dyn Watcher>,
    head: Head,
    /// The beginning of a packet; kept for its allocation.
    bytes: Vec<u8>,
}

impl Queue for Watched {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        let (first, filled) = (status.len(), io.done.received.len());
        self.ahead.note(io.rx);
        self.queue.transmit(io, batch, status);
        for ((packet, segments), status) in batch.iter().zip(&status[first..]) {
            if matches!(status, TxStatus::Sent | TxStatus::Pending) {
                self.show.sent(io.memory, packet, segments);
            }
        }
        self.show_received(io.memory, io.done, filled);
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        let filled = io.done.received.len();
        self.ahead.note(io.rx);
        let more = self.queue.receive(io);
        self.show_received(io.memory, io.done, filled);
        more
    }

    fn settle(&mut self, io: &mut QueueIo<'_>) {
        let filled = io.done.received.len();
        self.ahead.note(io.rx);
        self.queue.settle(io);
        self.show_received(io.memory, io.done, filled);
    }

    fn cancel_receive(&mut self) {
        self.queue.cancel_receive();
    }

    fn pending(&self) -> usize {
        self.queue.pending()
    }

    fn cancel_transmit(&mut self) {
        self.queue.cancel_transmit();
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.queue.readiness()
    }

    fn counters(&self) -> &Counters {
        self.queue.counters()
    }
}

impl Watched {
    /// Shows the packets that were received after the first `filled` completions.
    fn show_received(&mut self, memory: &GuestMemory, done: &Completions, filled: usize) {
        let received = done.received.get(filled..).unwrap_or_default();
        let mut segments = &self.ahead.segments[..];
        // Buffers are filled in the order in which they were posted.
        for (packet, buffer) in received.iter().zip(&self.ahead.buffers) {
            let (own, later) = segments.split_at(buffer.segments.into());
            segments = later;
            if packet.id == buffer.id && !packet.flags.contains(RxFlags::MEMORY_FAULT) {
                self.show.received(memory, packet, own);
            }
        }
    }
}

impl Ahead {
    fn note(&mut self, rx: &RxQueue) {
        self.buffers.clear();
        self.segments.clear();
        rx.copy_front(MOST_FILLED, &mut self.buffers, &mut self.segments);
    }
}

impl Show {
    /// Shows a packet of the guest as it is sent: with the offloads that are done before
    /// segmentation.
    fn sent(&mut self, memory: &GuestMemory, packet: &TxPacket, segments: &[Segment]) {
        let length: u64 = segments.iter().map(|s| u64::from(s.length)).sum();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let span = || segments.iter().copied();
        if self.head.load(memory, span()).is_err() {
            return;
        }
        let prepared = Request::of(packet)
            .and_then(|request| offload::prepare(&request, &mut self.head, length, usize::MAX));
        // A malformed packet is shown as it is.
        let (end, vnet) = prepared.map_or((length, None), |it| (it.length, Some(it.vnet)));
        let copied = self.head.copied();
        self.bytes.clear();
        self.bytes.extend_from_slice(self.head.bytes());
        let own = self.bytes.len();
        let rest = end.saturating_sub(copied);
        let whole = own + rest;
        let wanted = self.watcher.most().min(whole);
        self.bytes.resize(wanted.max(own), 0);
        let behind = Span::new(span()).advance(copied as u64);
        if behind
            .limit(rest as u64)
            .read(memory, &mut self.bytes[own..])
            .is_err()
        {
            return;
        }
        if let Some(vnet) = vnet
            && vnet.gso == GsoType::None
            && let Some(partial) = vnet.partial
            && self.bytes.len() == whole
        {
            let start = usize::from(partial.start);
            let field = start + usize::from(partial.offset);
            let sum = checksum::of(&self.bytes[start..]);
            self.bytes[field..field + 2].copy_from_slice(&sum);
        }
        self.show(Direction::FromGuest, whole);
    }

    /// Shows a packet in a buffer, with its tag inserted again.
    fn received(&mut self, memory: &GuestMemory, packet: &RxPacket, segments: &[Segment]) {
        let length = packet.length as usize;
        self.bytes.clear();
        self.bytes.resize(self.watcher.most().min(length), 0);
        let written = Span::new(segments.iter().copied()).read(memory, &mut self.bytes);
        let Ok(written) = written else {
            return;
        };
        // One that was truncated ends with its buffer.
        self.bytes.truncate(written);
        let mut whole = length;
        if packet.flags.contains(RxFlags::VLAN) {
            whole += TAG_BYTES;
            let [high, low] = packet.vlan_tci.to_be_bytes();
            let at = ADDRESS_BYTES.min(self.bytes.len());
            self.bytes.splice(at..at, [0x81, 0, high, low]);
        }
        self.show(Direction::ToGuest, whole);
    }

    fn show(&mut self, direction: Direction, length: usize) {
        self.bytes.truncate(self.watcher.most());
        self.watcher.look(&Passed {
            direction,
            queue: self.number,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            bytes: &self.bytes,
        });
    }
}

#[cfg(test)]
mod tests;
