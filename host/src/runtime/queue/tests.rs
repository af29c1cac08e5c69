//! Packets that have to wait for their port's rate.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::contract::Offloads;

/// Records its packets, every third of which completes later.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<u32>>>);

impl Queue for Noting {
    fn transmit(&mut self, _: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        for (packet, _) in batch.iter() {
            self.0.lock().unwrap().push(packet.id);
            status.push(match packet.id % 3 {
                2 => TxStatus::Pending,
                _ => TxStatus::Sent,
            });
        }
    }

    fn receive(&mut self, _: &mut QueueIo<'_>) -> bool {
        false
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A queue, and the packets that it passed to its endpoint.
struct Side {
    queue: QueueState,
    noted: Noting,
    memory: GuestMemory,
    woken: QueueSet,
    pace: Pace,
    begun: Instant,
}

impl Side {
    /// Packets of 1250 bytes take 10 us each.
    fn new() -> Self {
        let noted = Noting::default();
        let begun = Instant::now();
        Self {
            queue: QueueState::new(Box::new(noted.clone())),
            noted,
            memory: GuestMemory::new(),
            woken: QueueSet::default(),
            pace: Pace::new(Some(1000), begun),
            begun,
        }
    }

    fn send(&mut self, ids: std::ops::Range<u32>, at: u64) -> Vec<TxStatus> {
        let packet = |id| TxPacket {
            id,
            segments: 2,
            l4_offset: 0,
            segment_size: 0,
            vlan_tci: 0,
            offloads: Offloads::empty(),
        };
        let packets: Vec<_> = ids.map(packet).collect();
        let half = Segment {
            address: 0,
            length: 625,
        };
        let segments = vec![half; 2 * packets.len()];
        let batch = TxBatch::new(&packets, &segments).unwrap();
        let mut statuses = Vec::new();
        let now = self.begun + Duration::from_micros(at);
        let Self {
            queue,
            memory,
            woken,
            pace,
            ..
        } = self;
        queue.transmit_paced(pace, now, memory, batch, &mut statuses, woken);
        statuses
    }

    fn release(&mut self, at: u64) -> bool {
        let now = self.begun + Duration::from_micros(at);
        let Self {
            queue,
            memory,
            woken,
            pace,
            ..
        } = self;
        queue.release(pace, now, memory, woken)
    }

    fn noted(&self) -> Vec<u32> {
        std::mem::take(&mut self.noted.0.lock().unwrap())
    }

    fn ended(&mut self) -> Vec<u32> {
        let ended = self.queue.done.transmitted.drain(..);
        ended.map(|end| end.id).collect()
    }
}

#[test]
fn packets_wait_for_their_time_and_leave_in_order() {
    let mut side = Side::new();
    let statuses = side.send(0..4, 0);
    assert_eq!(statuses[0], TxStatus::Sent);
    assert_eq!(statuses[1..], [TxStatus::Pending; 3]);
    assert_eq!((side.noted(), side.queue.pending()), (vec![0], 3));
    // A packet does not overtake waiting ones, even if the rate would allow it.
    assert_eq!(side.send(4..5, 1000), [TxStatus::Pending]);
    assert!(side.noted().is_empty());
    assert!(side.release(1000));
    assert_eq!(side.noted(), [1, 2, 3, 4]);
    // The endpoint itself completes the pending one.
    assert_eq!(side.ended(), [1, 3, 4]);
    assert!(!side.queue.is_held() && !side.release(2000));
}

#[test]
fn so_many_leave_at_a_time_that_others_get_their_turn() {
    let mut side = Side::new();
    side.send(0..100, 0);
    assert!(side.release(9000));
    assert_eq!(side.noted().len(), 1 + RELEASED);
    assert!(!side.release(0));
}

#[test]
fn waiting_is_bounded_and_can_be_given_up() {
    let mut side = Side::new();
    let statuses = side.send(0..1030, 0);
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    assert_eq!(
        (count(TxStatus::Pending), count(TxStatus::Dropped)),
        (1024, 5)
    );
    assert_eq!(side.queue.counters().transmit.dropped_busy, 5);
    side.queue.give_up_transmits();
    assert_eq!(side.queue.pending(), 0);
    assert!(!side.release(1_000_000));
    assert!(side.ended().is_empty());
}
