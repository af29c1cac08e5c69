use alloc::vec;

use super::*;

const FLAGS: RxFlags = RxFlags::IPV4;

fn packet(id: u32) -> TxPacket {
    TxPacket::with_offloads(id, 1, Offloads::empty())
}

fn segments(lengths: &[u32]) -> Vec<Segment> {
    let at = lengths.iter().enumerate();
    at.map(|(i, &length)| Segment {
        address: i as u64 * 4096,
        length,
    })
    .collect()
}

fn with_buffers(lengths: &[u32]) -> Queue {
    let mut queue = Queue::default();
    let buffers = (1..).zip(lengths);
    let buffers: Vec<_> = buffers
        .map(|(id, _)| RxBuffer { id, segments: 1 })
        .collect();
    queue.post(&buffers, &segments(lengths));
    queue
}

#[test]
fn transmits_end_as_planned() {
    let mut queue = Queue::default();
    queue.plan_transmits(&[TxStatus::Pending, TxStatus::Dropped]);
    let statuses = [7, 8, 9].map(|id| queue.take_packet(&packet(id), b"frame"));
    assert_eq!(
        statuses,
        [TxStatus::Pending, TxStatus::Dropped, TxStatus::Sent]
    );
    let taken = queue.take_transmitted();
    assert_eq!(taken.len(), 2, "a dropped packet is on no wire");
    assert_eq!(taken[0].frame, b"frame");
    assert_eq!(queue.pending_transmits(), 1);
    let ended = queue.finish_transmits(&[TxStatus::Sent, TxStatus::Sent]);
    let expected = TxCompletion {
        id: 7,
        status: TxStatus::Sent,
    };
    assert_eq!(ended, vec![expected]);
}

#[test]
fn a_plan_takes_the_place_of_an_earlier_one() {
    let mut queue = Queue::default();
    queue.plan_transmits(&[TxStatus::Dropped; 2]);
    queue.plan_transmits(&[TxStatus::TooLong]);
    let statuses = [1, 2].map(|id| queue.take_packet(&packet(id), b"frame"));
    assert_eq!(statuses, [TxStatus::TooLong, TxStatus::Sent]);
}

#[test]
fn frames_fill_the_buffers_at_the_front() {
    let memory = Memory::default();
    let mut queue = Queue::default();
    queue.limit_buffers(2);
    let buffers = [1, 2, 3].map(|id| RxBuffer { id, segments: 1 });
    assert_eq!(queue.post(&buffers, &segments(&[4, 4, 4])), 2);
    let mut receive = |frame| queue.receive(&memory, frame, FLAGS);
    let packet = receive(b"four").expect("a buffer");
    assert_eq!((packet.id, packet.flags, packet.hash), (1, FLAGS, 0));
    let packet = receive(b"fives").expect("a buffer");
    assert_eq!(packet.flags, FLAGS | RxFlags::TRUNCATED);
    assert_eq!(packet.length, 5);
    assert!(receive(b"none").is_none());
    let mut found = [0; 5];
    assert_eq!(memory.peek(4096, &mut found), Ok(()));
    assert_eq!(&found, b"five\0");
}

#[test]
fn a_frame_for_memory_that_is_gone_has_no_length_and_no_other_flag() {
    let mut memory = Memory::default();
    memory.revoke(0, 1);
    let frame = [&[0; 12][..], &[0x81, 0, 0, 9, 8, 0, 1, 2]].concat();
    let packet = with_buffers(&[64]).receive(&memory, &frame, FLAGS);
    let expected = RxPacket {
        id: 1,
        length: 0,
        vlan_tci: 0,
        flags: RxFlags::MEMORY_FAULT,
        hash: 0,
    };
    assert_eq!(packet, Some(expected));
}

#[test]
fn a_tag_is_taken_out_of_a_frame() {
    let memory = Memory::default();
    let frame = [&[1; 12][..], &[0x81, 0, 0x20, 9, 8, 0, 1, 2]].concat();
    let packet = with_buffers(&[64]).receive(&memory, &frame, FLAGS);
    let packet = packet.expect("a buffer");
    assert_eq!((packet.length, packet.vlan_tci), (16, 0x2009));
    assert_eq!(packet.flags, FLAGS | RxFlags::VLAN);
}

#[test]
fn a_frame_has_a_hash_if_its_flags_say_so() {
    let memory = Memory::default();
    for (flags, has_hash) in [
        (FLAGS, false),
        (RxFlags::HASH_L3, true),
        (RxFlags::HASH_L4, true),
    ] {
        let packet = with_buffers(&[64]).receive(&memory, &[3; 60], flags);
        let hash = packet.expect("a buffer").hash;
        assert_eq!(hash != 0, has_hash, "{flags:?}");
    }
}

#[test]
fn queues_of_a_port_are_apart() {
    let memory = Memory::default();
    let mut port = Port::new(2);
    port.queue(1).plan_transmits(&[TxStatus::Pending]);
    let statuses = [1, 0].map(|queue| port.queue(queue).take_packet(&packet(4), b"one"));
    assert_eq!(statuses, [TxStatus::Pending, TxStatus::Sent]);
    assert_eq!(port.queue(0).pending_transmits(), 0);
    assert_eq!(port.queue(1).take_transmitted().len(), 1);
    let buffer = RxBuffer { id: 6, segments: 1 };
    port.queue(1).post(&[buffer], &segments(&[64]));
    assert!(port.queue(0).receive(&memory, b"frame", FLAGS).is_none());
    port.queue(0).cancel_receive();
    let packet = port.queue(1).receive(&memory, b"frame", FLAGS);
    assert_eq!(packet.map(|packet| packet.id), Some(6));
    assert_eq!(port.queues(), 2);
}
