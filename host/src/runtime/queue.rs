//! A queue of a port, and the packets and buffers that the device gave it.

use std::sync::Arc;
use std::time::Instant;

use super::gauges::QueueGauges;
use super::pace::{Pace, wire_bytes};
use crate::continuity::live::Cell;
use crate::contract::{Segment, TxCompletion, TxPacket, TxStatus};
use crate::endpoint::{
    self, Completions, Counters, Queue, QueueIo, QueueSet, RxQueue, TxBatch, Waiting, Watcher,
};
use crate::memory::GuestMemory;

/// The number of delayed packets that are sent at a time, so that queues take turns.
const RELEASED: usize = 16;

/// A queue of a running device's port.
pub struct QueueState {
    queue: Box<dyn Queue>,
    /// The posted buffers.
    pub rx: RxQueue,
    /// The completions that the device was not notified of.
    pub done: Completions,
    /// The last packet that was handed over.
    handed_over: Option<u32>,
    /// Where that is noted for a successor, too.
    live: Option<Cell>,
    /// Packets that are delayed by the port's rate.
    waiting: Waiting,
    /// Packets that were dropped because there was no room to delay them.
    dropped: u64,
    /// The counters of earlier processes.
    before: Option<Box<Counters>>,
    // What follows is kept for its allocation.
    packets: Vec<TxPacket>,
    segments: Vec<Segment>,
    statuses: Vec<TxStatus>,
    /// The part that other threads may read at any time.
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
            live: None,
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

    /// Attaches a watcher, as the port's queue with this number. Returns whether there was none.
    pub fn watch(&mut self, number: u16, watcher: &Arc<dyn Watcher>) -> bool {
        endpoint::watch(&mut self.queue, number, watcher)
    }

    /// Detaches the watcher.
    pub fn unwatch(&mut self) {
        endpoint::unwatch(&mut self.queue);
    }

    /// Returns the endpoint's queue, and the memory and lists that it works on.
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

    /// Returns its counters.
    pub fn counters(&self) -> Counters {
        let mut counters = self.queue.counters().clone();
        counters.transmit.dropped_busy += self.dropped;
        if let Some(before) = &self.before {
            counters.add(before);
        }
        counters
    }

    /// Continues earlier counters.
    pub fn continue_counting(&mut self, before: Counters) {
        self.before = Some(Box::new(before));
        self.publish();
    }

    /// Returns how many transmits are pending.
    pub fn pending(&self) -> usize {
        self.queue.pending() + self.waiting.len()
    }

    /// Returns whether packets are delayed by the port's rate.
    pub fn is_held(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands packets over as far as the rate permits. The rest are delayed, as in the send queue of
    /// a network card.
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

    /// Hands over some of the delayed packets, as far as the rate permits. Returns whether there were
    /// any.
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
        // The endpoint completes those that are still pending.
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

    /// Drops packets that other queues forwarded to this one.
    pub fn drop_passed(&mut self) {
        self.queue.cancel_receive();
    }

    /// Cancels pending transmits, but keeps the id of the last packet.
    pub fn give_up_transmits(&mut self) {
        self.queue.cancel_transmit();
        self.waiting.clear();
        self.done.transmitted.clear();
        self.publish();
    }

    /// Takes back what an instance gave to it. Packets that wait for buffers wait for those of the
    /// next instance.
    pub fn abandon(&mut self) {
        self.rx.clear();
        self.done.received.clear();
        self.give_up_transmits();
    }

    /// Returns the part that other threads may read at any time.
    pub fn gauges(&self) -> Arc<QueueGauges> {
        self.gauges.clone()
    }

    /// Publishes the queue's counters, after it was called.
    #[inline]
    pub fn publish(&self) {
        match (self.dropped, &self.before) {
            (0, None) => self.gauges.set_counters(self.queue.counters()),
            _ => self.gauges.set_counters(&self.counters()),
        }
        self.gauges.pending_transmits.set(self.pending() as u64);
        self.publish_posted();
    }

    /// Notes the last packet that was handed over in a cell, too.
    pub fn record(&mut self, cell: Option<Cell>) {
        self.live = cell;
        self.set_handed_over(self.handed_over);
    }

    /// Returns the last packet that was handed over, if there is one.
    pub fn handed_over(&self) -> Option<u32> {
        self.handed_over
    }

    /// Sets the last packet that was handed over; None if there is none.
    #[inline]
    pub fn set_handed_over(&mut self, last: Option<u32>) {
        self.handed_over = last;
        self.gauges.set_handed_over(last);
        if let Some(cell) = &self.live {
            cell.store_packet(last);
        }
    }

    /// Publishes how many buffers are posted.
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
