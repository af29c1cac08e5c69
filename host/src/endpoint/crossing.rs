//! The part that the queues of an endpoint share: the steering, and packets on their way from
//! the queue where they arrived to the one they are steered to.
//!
//! A packet is forwarded by copy, to a backlog of the other queue. Queues that run on different
//! threads share nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::counters::RxCounters;
use super::headers::Layout;
use super::packet::RxFlags;
use super::queue::QueueIo;
use super::queue_set::QueueSet;
use super::rss::{Destination, Rss};
use super::rx_queue::Received;
use crate::memory::Span;

/// The most packets that wait for a queue.
const MAX_PACKETS: usize = 256;
/// The number of bytes from which on no more packets are queued.
const MAX_BYTES: usize = 512 << 10;
/// Buffers that are kept for further packets.
const SPARE: usize = 64;
/// The largest buffer that is kept.
const USUAL_BYTES: usize = 2048;

/// The state that the queues of an endpoint share.
#[derive(Debug)]
struct Crossing {
    /// Counts changes of the steering, so that queues notice.
    changes: AtomicU64,
    rss: Mutex<Option<Arc<Rss>>>,
    backlogs: Box<[Backlog]>,
}

/// Packets for a queue that arrived on another.
#[derive(Debug, Default)]
struct Backlog {
    /// Their number, readable without the lock.
    count: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<Parked>,
    bytes: usize,
    /// Buffers of packets that were delivered.
    spare: Vec<Vec<u8>>,
    /// Queues with a packet for which there was no room.
    blocked: QueueSet,
}

/// A packet as it is delivered to the guest.
#[derive(Debug)]
struct Parked {
    bytes: Vec<u8>,
    about: About,
}

/// The metadata of a packet.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its flags, the hash's included.
    pub flags: RxFlags,
    /// The tag control information of a tag that was removed.
    pub vlan_tci: u16,
    /// The hash.
    pub hash: u32,
}

/// A queue's connection to the others of its endpoint.
#[derive(Debug)]
pub struct Route {
    crossing: Arc<Crossing>,
    own: u16,
    /// The number of the change that `rss` stems from.
    seen: u64,
    rss: Option<Arc<Rss>>,
    only: bool,
}

/// What steers the queues of an endpoint.
#[derive(Debug)]
pub struct Switch(Arc<Crossing>);

impl Switch {
    /// Connects `count` queues; all packets are steered to queue 0.
    pub fn new(queues: u16) -> (Self, Vec<Route>) {
        let crossing = Arc::new(Crossing {
            changes: AtomicU64::new(0),
            rss: Mutex::new(None),
            backlogs: (0..queues).map(|_| Backlog::default()).collect(),
        });
        let route = |own| Route {
            crossing: crossing.clone(),
            own,
            seen: 0,
            rss: None,
            only: own == 0,
        };
        let routes = (0..queues).map(route).collect();
        (Self(crossing), routes)
    }

    /// Steers packets from now on.
    pub fn steer(&self, rss: Option<Arc<Rss>>) {
        *self.0.rss.lock() = rss;
        self.0.changes.fetch_add(1, Ordering::Release);
    }
}

impl Default for Route {
    /// Creates the route of an endpoint's only queue.
    fn default() -> Self {
        let (_, mut routes) = Switch::new(1);
        routes.swap_remove(0)
    }
}

impl Route {
    /// Checks whether the steering has changed.
    #[inline]
    pub fn refresh(&mut self) {
        let changes = self.crossing.changes.load(Ordering::Acquire);
        if changes != self.seen {
            self.seen = changes;
            self.rss = self.crossing.rss.lock().clone();
            self.only = self.target() == Some(self.own);
        }
    }

    /// Returns the queue that all packets are steered to, if there is one.
    fn target(&self) -> Option<u16> {
        match &self.rss {
            Some(rss) => rss.only(),
            None => Some(0),
        }
    }

    /// Returns whether all packets that arrive on this queue are steered to it.
    #[inline]
    pub fn is_own(&self) -> bool {
        self.only
    }

    /// Returns whether packets that arrive on other queues may be steered to this one.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.crossing.backlogs.len() > 1
    }

    /// Returns whether all packets are steered to one queue: then one without room waits, since no
    /// other queue is delayed by that.
    pub fn holds(&self) -> bool {
        self.target().is_some()
    }

    /// Returns whether a packet for this queue is written to a posted buffer at once: it is this one,
    /// and no earlier packets wait.
    #[inline]
    pub fn leads_here(&self, queue: u16) -> bool {
        queue == self.own && !self.has_waiting()
    }

    /// Steers a frame whose headers are at `layout`.
    #[inline]
    pub fn look(&self, frame: &[u8], layout: Option<&Layout>) -> Destination {
        match &self.rss {
            Some(rss) => rss.look(frame, layout),
            None => Destination::default(),
        }
    }

    /// Returns whether packets wait for this queue.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        self.own().count.load(Ordering::Relaxed) > 0
    }

    /// Returns whether [`take_in`](Self::take_in) would do something.
    #[inline]
    pub fn has_more(&self, io: &QueueIo<'_>) -> bool {
        self.is_shared() && self.has_waiting() && !io.rx.is_empty()
    }

    fn own(&self) -> &Backlog {
        &self.crossing.backlogs[usize::from(self.own)]
    }

    /// Forwards a packet, whose bytes `fill` writes. Returns false if there is no room: if the packet
    /// is to wait, this queue is woken when there is.
    ///
    /// # Errors
    ///
    /// The error of `fill`; nothing is forwarded.
    pub fn pass<E>(
        &self,
        queue: u16,
        about: About,
        woken: &mut QueueSet,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let Some(backlog) = self.crossing.backlogs.get(usize::from(queue)) else {
            return Ok(false);
        };
        let mut waiting = backlog.waiting.lock();
        if waiting.packets.len() >= MAX_PACKETS || waiting.bytes >= MAX_BYTES {
            if self.holds() {
                waiting.blocked.insert(self.own);
            }
            return Ok(false);
        }
        let mut bytes = waiting.spare.pop().unwrap_or_default();
        let filled = fill(&mut bytes);
        if filled.is_ok() {
            waiting.bytes += bytes.len();
            waiting.packets.push_back(Parked { bytes, about });
            backlog
                .count
                .store(waiting.packets.len(), Ordering::Relaxed);
            woken.insert(queue);
        } else {
            waiting.keep(bytes);
        }
        filled.map(|()| true)
    }

    /// Writes packets that wait for this queue to posted buffers, and counts them.
    /// Returns how many buffers were used, at most `most`.
    pub fn take_in(&self, io: &mut QueueIo<'_>, counters: &mut RxCounters, most: usize) -> usize {
        let mut used = 0;
        while used < most && self.has_waiting() && !io.rx.is_empty() {
            let mut waiting = self.own().waiting.lock();
            let Some(packet) = waiting.packets.front() else {
                break;
            };
            if deliver(packet, io, counters) {
                waiting.pop();
                self.note_room(&mut waiting, io);
            }
            used += 1;
        }
        used
    }

    /// Drops packets that wait for this queue, and counts them.
    pub fn drop_waiting(&self, counters: &mut RxCounters) {
        let mut waiting = self.own().waiting.lock();
        counters.dropped += waiting.packets.len() as u64;
        while waiting.pop() {}
        self.own().count.store(0, Ordering::Relaxed);
    }

    /// Delivers waiting packets as far as there are buffers, and drops the rest.
    pub fn settle(&self, io: &mut QueueIo<'_>, counters: &mut RxCounters) {
        self.take_in(io, counters, usize::MAX);
        self.drop_waiting(counters);
        let mut waiting = self.own().waiting.lock();
        self.note_room(&mut waiting, io);
    }

    fn note_room(&self, waiting: &mut Waiting, io: &mut QueueIo<'_>) {
        self.own()
            .count
            .store(waiting.packets.len(), Ordering::Relaxed);
        io.woken.insert_all(std::mem::take(&mut waiting.blocked));
    }
}

impl Waiting {
    /// Removes the first packet. Returns whether there was one.
    fn pop(&mut self) -> bool {
        let Some(packet) = self.packets.pop_front() else {
            return false;
        };
        self.bytes -= packet.bytes.len();
        self.keep(packet.bytes);
        true
    }

    fn keep(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE && bytes.capacity() <= USUAL_BYTES {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

/// Writes a packet to the next buffer. Returns false if that is not in guest memory: the packet
/// waits for the next.
fn deliver(packet: &Parked, io: &mut QueueIo<'_>, counters: &mut RxCounters) -> bool {
    let Some(buffer) = io.rx.front() else {
        return false;
    };
    let Parked { bytes, about } = packet;
    if Span::new(buffer.segments())
        .write(io.memory, bytes)
        .is_err()
    {
        counters.memory_faults += 1;
        buffer.complete(Received::FAULT, io.done);
        return false;
    }
    let truncated = bytes.len() as u64 > buffer.capacity();
    counters.count(bytes.len() as u64, truncated);
    let mut flags = about.flags;
    flags.set(RxFlags::TRUNCATED, truncated);
    let received = Received {
        // Fits: no frame is longer than an IP packet and its link header.
        length: bytes.len() as u32,
        flags,
        vlan_tci: about.vlan_tci,
        hash: about.hash,
    };
    buffer.complete(received, io.done);
    true
}

#[cfg(test)]
mod tests;
