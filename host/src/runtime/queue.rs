//! A queue of a port, and what the device gave it to do.

use std::sync::Arc;
use std::time::Instant;

use super::gauges::QueueGauges;
use super::pace::{Pace, wire_bytes};
use crate::contract::{Segment, TxCompletion, TxPacket, TxStatus};
use crate::endpoint::{
    self, Completions, Counters, Queue, QueueIo, QueueSet, RxQueue, TxBatch, Waiting, Watcher,
};
use crate::memory::GuestMemory;

/// Packets that wait to be sent, of which so many are sent at a time: other queues wait too.
const RELEASED: usize = 16;

/// A queue of a running device's port.
pub struct QueueState {
    queue: Box<dyn Queue>,
    /// The posted buffers.
    pub rx: RxQueue,
    /// What the queue finished and the device was not told yet.
    pub done: Completions,
    /// The last packet that was handed over.
    handed_over: Option<u32>,
    /// Packets that wait until the port's rate lets them leave.
    waiting: Waiting,
    /// Packets that found no room among those.
    dropped: u64,
    /// What was done here before this process began.
    before: Option<Box<Counters>>,
    // What follows is kept for its allocation.
    packets: Vec<TxPacket>,
    segments: Vec<Segment>,
    statuses: Vec<TxStatus>,
    /// What others may read at any time.
    gauges: Arc<QueueGauges>,
}

impl QueueState {
    /// Returns a queue that has nothing to do.
    pub fn new(queue: Box<dyn Queue>) -> Self {
        Self {
            queue,
            rx: RxQueue::new(),
            done: Completions::default(),
            handed_over: None,
            waiting: Waiting::default(),
            dropped: 0,
            before: None,
            packets: Vec::new(),
            segments: Vec::new(),
            statuses: Vec::new(),
            gauges: Arc::default(),
        }
    }

    /// Returns the endpoint's queue.
    pub fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// Has somebody watch its packets, as the port's queue with this number. Returns whether
    /// nobody did before.
    pub fn watch(&mut self, number: u16, watcher: &Arc<dyn Watcher>) -> bool {
        endpoint::watch(&mut self.queue, number, watcher)
    }

    /// Ends that.
    pub fn unwatch(&mut self) {
        endpoint::unwatch(&mut self.queue);
    }

    /// Returns the endpoint's queue, and what it works on.
    #[inline]
    pub fn split<'a>(
        &'a mut self,
        memory: &'a GuestMemory,
        woken: &'a mut QueueSet,
    ) -> (&'a mut dyn Queue, QueueIo<'a>) {
        let io = QueueIo {
            memory,
            rx: &mut self.rx,
            done: &mut self.done,
            woken,
            policy: None,
        };
        (&mut *self.queue, io)
    }

    /// Returns what it sent, received and dropped so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.queue.counters().clone();
        counters.transmit.dropped_busy += self.dropped;
        if let Some(before) = &self.before {
            counters.add(before);
        }
        counters
    }

    /// Counts on from what was done before.
    pub fn continue_counting(&mut self, before: Counters) {
        self.before = Some(Box::new(before));
        self.publish();
    }

    /// Returns how many transmits have not ended.
    pub fn pending(&self) -> usize {
        self.queue.pending() + self.waiting.len()
    }

    /// Returns whether packets wait until the port's rate lets them leave.
    pub fn is_held(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands packets over as far as they may leave now. Those behind them wait, as in the
    /// send queue of a network card.
    pub fn transmit_paced(
        &mut self,
        pace: &mut Pace,
        now: Instant,
        memory: &GuestMemory,
        batch: TxBatch<'_>,
        statuses: &mut Vec<TxStatus>,
        woken: &mut QueueSet,
    ) {
        let mut leave = 0;
        if self.waiting.is_empty() {
            let may_leave = |(packet, segments): &(&TxPacket, &[Segment])| {
                pace.send(wire_bytes(packet, length(segments)), now)
            };
            leave = batch.iter().take_while(may_leave).count();
        }
        let (leaving, staying) = batch.split_at(leave);
        if !leaving.is_empty() {
            let (queue, mut io) = self.split(memory, woken);
            queue.transmit(&mut io, leaving, statuses);
        }
        for (packet, segments) in staying.iter() {
            let status = self.waiting.push(packet, segments);
            self.dropped += u64::from(status == TxStatus::Dropped);
            statuses.push(status);
        }
    }

    /// Hands over some of the packets that wait, as far as they may leave now. Returns
    /// whether any did.
    pub fn release(
        &mut self,
        pace: &mut Pace,
        now: Instant,
        memory: &GuestMemory,
        woken: &mut QueueSet,
    ) -> bool {
        self.packets.clear();
        self.segments.clear();
        while self.packets.len() < RELEASED {
            let Some((packet, segments)) = self.waiting.front() else {
                break;
            };
            let length = segments.clone().map(|s| u64::from(s.length)).sum();
            if !pace.send(wire_bytes(&packet, length), now) {
                break;
            }
            self.packets.push(packet);
            self.segments.extend(segments);
            self.waiting.pop();
        }
        let Self {
            queue,
            rx,
            done,
            packets,
            segments,
            statuses,
            ..
        } = self;
        let Some(batch) = TxBatch::new(packets, segments)
            .ok()
            .filter(|it| !it.is_empty())
        else {
            return false;
        };
        let mut io = QueueIo {
            memory,
            rx,
            done,
            woken,
            policy: None,
        };
        statuses.clear();
        queue.transmit(&mut io, batch, statuses);
        // Those that are pending still are finished by the endpoint.
        let ended = packets.iter().zip(&*statuses);
        let ended = ended.filter(|(_, status)| **status != TxStatus::Pending);
        done.transmitted
            .extend(ended.map(|(packet, status)| TxCompletion {
                id: packet.id,
                status: *status,
            }));
        self.publish();
        true
    }

    /// Takes every posted buffer back. Packets that waited for them are lost.
    pub fn cancel_receive(&mut self) {
        self.rx.clear();
        self.done.received.clear();
        self.drop_passed();
        self.publish();
    }

    /// Drops packets that other queues passed on to this one.
    pub fn drop_passed(&mut self) {
        self.queue.cancel_receive();
    }

    /// Gives up pending transmits, but still knows which packet was the last.
    pub fn give_up_transmits(&mut self) {
        self.queue.cancel_transmit();
        self.waiting.clear();
        self.done.transmitted.clear();
        self.publish();
    }

    /// Takes back what an instance gave to it. Packets that wait for buffers wait for those
    /// of the next instance.
    pub fn abandon(&mut self) {
        self.rx.clear();
        self.done.received.clear();
        self.give_up_transmits();
    }

    /// Returns what others may read of it at any time.
    pub fn gauges(&self) -> Arc<QueueGauges> {
        self.gauges.clone()
    }

    /// Shows others what the queue has done, after it was called.
    #[inline]
    pub fn publish(&self) {
        match (self.dropped, &self.before) {
            (0, None) => self.gauges.set_counters(self.queue.counters()),
            _ => self.gauges.set_counters(&self.counters()),
        }
        self.gauges.pending_transmits.set(self.pending() as u64);
        self.publish_posted();
    }

    /// Returns the last packet that was handed over, if there is one.
    pub fn handed_over(&self) -> Option<u32> {
        self.handed_over
    }

    /// Remembers the last packet that was handed over; None if there is none.
    #[inline]
    pub fn set_handed_over(&mut self, last: Option<u32>) {
        self.handed_over = last;
        self.gauges.set_handed_over(last);
    }

    /// Shows others how many buffers are posted.
    #[inline]
    pub fn publish_posted(&self) {
        self.gauges.posted_buffers.set(self.rx.len() as u64);
    }
}

fn length(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.length)).sum()
}

#[cfg(test)]
mod tests;
