//! Posting and completing receive buffers.

use super::*;
use crate::memory::tests::segment;

fn buffer(id: u32, segments: u16) -> RxBuffer {
    RxBuffer { id, segments }
}

fn received(length: u32, flags: RxFlags) -> Received {
    Received {
        length,
        flags,
        vlan_tci: 0,
        hash: 0,
    }
}

#[test]
fn buffers_complete_in_posting_order_with_their_own_segments() {
    let mut queue = RxQueue::new();
    let segments = [segment(1, 10), segment(2, 20), segment(3, 30)];
    let posted = queue.post(&[buffer(7, 2), buffer(8, 1)], &segments);
    assert_eq!(posted, Some(2));
    let mut done = Completions::default();

    let front = queue.front().unwrap();
    assert_eq!(front.capacity(), 30);
    assert!(front.segments().eq(segments[..2].iter().copied()));
    front.complete(received(25, RxFlags::IPV4), &mut done);

    let front = queue.front().unwrap();
    assert!(front.segments().eq(segments[2..].iter().copied()));
    front.complete(received(31, RxFlags::TRUNCATED), &mut done);

    assert!(queue.front().is_none());
    assert!(queue.is_empty());
    let seen: Vec<_> = done.received.iter().map(|p| (p.id, p.length)).collect();
    assert_eq!(seen, [(7, 25), (8, 31)]);
}

#[test]
fn lists_that_do_not_add_up_are_refused_whole() {
    let mut queue = RxQueue::new();
    let one = [segment(1, 1)];
    assert_eq!(queue.post(&[buffer(0, 2)], &one), None);
    assert_eq!(queue.post(&[], &one), None);
    assert_eq!(queue.post(&[buffer(0, 1), buffer(1, 0)], &one), None);
    assert!(queue.is_empty());
    assert_eq!(queue.post(&[], &[]), Some(0));
}

#[test]
fn the_buffers_of_a_queue_are_bounded() {
    let mut queue = RxQueue::new();
    let count = RxQueue::MAX_BUFFERS + 10;
    let buffers: Vec<_> = (0..count as u32).map(|id| buffer(id, 1)).collect();
    let segments = vec![segment(0, 1); count];
    let most = RxQueue::MAX_BUFFERS as u32;
    assert_eq!(queue.post(&buffers, &segments), Some(most));
    assert_eq!(queue.post(&buffers[..1], &segments[..1]), Some(0));
    let mut done = Completions::default();
    let front = queue.front().unwrap();
    front.complete(received(1, RxFlags::empty()), &mut done);
    assert_eq!(queue.post(&buffers[..2], &segments[..2]), Some(1));
    queue.clear();
    assert_eq!(queue.len(), 0);
    assert_eq!(queue.post(&buffers[..2], &segments[..2]), Some(2));
}

#[test]
fn the_segments_of_a_queue_are_bounded() {
    let mut queue = RxQueue::new();
    let half = u16::try_from(RxQueue::MAX_SEGMENTS / 2 + 1).unwrap();
    let segments = vec![segment(0, 1); usize::from(half) * 2];
    let posted = queue.post(&[buffer(0, half), buffer(1, half)], &segments);
    assert_eq!(posted, Some(1));
}

#[test]
fn a_queue_that_is_never_empty_frees_completed_buffers() {
    let mut queue = RxQueue::new();
    let mut done = Completions::default();
    queue.post(&[buffer(0, 1)], &[segment(0, 1)]);
    for id in 1..10_000 {
        queue.post(&[buffer(id, 1)], &[segment(u64::from(id), 1)]);
        let front = queue.front().unwrap();
        let address = front.segments().next().map(|segment| segment.address);
        assert_eq!(address, Some(u64::from(id) - 1));
        front.complete(received(1, RxFlags::empty()), &mut done);
        done.received.clear();
    }
    assert_eq!(queue.len(), 1);
    assert!(queue.segments.all.capacity() < 16);
}
