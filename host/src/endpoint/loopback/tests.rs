//! Packets come back as they were sent.

use super::*;
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Guest, Sample, TX_AREA, asking, kinds, plain, tagged, with_tag};
use crate::endpoint::{HashTypes, Offloads, RxPacket, Steering, Toeplitz};
use crate::memory::tests::{HIGH, LARGE, LOW, NOWHERE, READ_ONLY, UNREACHABLE, segment};

fn sample(payload: usize) -> Sample {
    Sample::new(IpVersion::V4, Transport::Udp, payload)
}

#[test]
fn a_packet_comes_back_as_it_is() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    for payload in [0, 1, 200, 228, 229, 1400] {
        let frame = sample(payload).frame();
        let id = guest.post();
        assert_eq!(guest.send(&mut loopback, &frame, plain()), TxStatus::Sent);
        let received = guest.received();
        let expected = RxFlags::IPV4 | RxFlags::UDP | RxFlags::IP_CHECKSUM_GOOD;
        assert_eq!((received[0].id, received[0].flags), (id, expected));
        assert_eq!(guest.content(&received[0]), frame);
    }
}

#[test]
fn segments_on_both_sides_may_lie_anywhere() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let frame = sample(1001).frame();
    let length = frame.len() as u32;
    let room = [segment(LARGE + 1, 13), segment(LARGE + 999, 2000)];
    guest.post_cut(&room);
    let cut = [
        segment(LOW + 7, 11),
        segment(HIGH - 300, 500),
        segment(LOW, 5),
        segment(TX_AREA + 5000, length - 516),
    ];
    assert_eq!(
        guest.send_cut(&mut loopback, &frame, plain(), &cut),
        TxStatus::Sent
    );
    let mut seen = vec![0; frame.len()];
    Span::new(room).read(&guest.memory, &mut seen).unwrap();
    assert_eq!(seen, frame);
}

#[test]
fn checksums_are_good_without_being_computed() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    for (version, transport) in kinds() {
        let sample = Sample::new(version, transport, 500);
        guest.post();
        let frame = sample.without_checksum();
        let status = guest.send(&mut loopback, &frame, sample.checksum_offload());
        assert_eq!(status, TxStatus::Sent);
        let received = guest.received();
        assert!(received[0].flags.contains(RxFlags::L4_CHECKSUM_GOOD));
        // Everything except the checksum itself is there.
        let field = sample.transport_offset() + transport.checksum_offset();
        let mut seen = guest.content(&received[0]);
        seen[field..field + 2].copy_from_slice(b"??");
        assert_eq!(seen, frame);
    }
    assert_eq!(loopback.wire.counters.transmit.packets, 4);
}

#[test]
fn tags_come_back_beside_the_frame() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let frame = sample(900).frame();
    let ways = [
        (frame.clone(), tagged(plain(), 0x6005)),
        (with_tag(&frame, 0x6005), plain()),
    ];
    for (sent, packet) in ways {
        guest.post();
        assert_eq!(guest.send(&mut loopback, &sent, packet), TxStatus::Sent);
        let received = guest.received().remove(0);
        assert!(received.flags.contains(RxFlags::VLAN));
        assert_eq!(received.vlan_tci, 0x6005);
        assert_eq!(guest.content(&received), frame);
    }
}

#[test]
fn packets_wait_for_buffers_in_order() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let frames: Vec<_> = (0..5).map(|i| sample(20 + i).frame()).collect();
    for (id, frame) in frames.iter().enumerate() {
        let at = segment(TX_AREA + id as u64 * 4096, frame.len() as u32);
        let packet = TxPacket {
            id: id as u32,
            ..plain()
        };
        let status = guest.send_cut(&mut loopback, frame, packet, &[at]);
        assert_eq!(status, TxStatus::Pending);
    }
    assert!(!loopback.receive(&mut guest.io()));
    assert!(guest.received().is_empty());
    for _ in 0..3 {
        guest.post();
    }
    assert!(!loopback.receive(&mut guest.io()));
    assert_eq!(guest.done.transmitted.len(), 3);
    // A new packet does not overtake waiting ones.
    let packet = TxPacket { id: 5, ..plain() };
    let late = segment(TX_AREA + 5 * 4096, frames[0].len() as u32);
    guest.post();
    let status = guest.send_cut(&mut loopback, &frames[0], packet, &[late]);
    assert_eq!(status, TxStatus::Pending);
    for _ in 0..2 {
        guest.post();
    }
    assert!(!loopback.receive(&mut guest.io()));
    let ids: Vec<_> = guest.done.transmitted.iter().map(|c| c.id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
    let received = guest.received();
    let seen: Vec<_> = received.iter().map(|p| guest.content(p)).collect();
    assert_eq!(seen[..5], frames);
    assert_eq!(seen[5], frames[0]);
}

#[test]
fn waiting_is_bounded_and_can_be_given_up() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let frame = sample(20).frame();
    let mut send = |loopback: &mut LoopbackQueue| guest.send(loopback, &frame, plain());
    for _ in 0..Waiting::MAX_PACKETS {
        assert_eq!(send(&mut loopback), TxStatus::Pending);
    }
    assert_eq!(send(&mut loopback), TxStatus::Dropped);
    assert_eq!(loopback.wire.counters.transmit.dropped_busy, 1);
    loopback.cancel_transmit();
    guest.post();
    assert!(!loopback.receive(&mut guest.io()));
    assert!(guest.received().is_empty());
    assert!(guest.done.transmitted.is_empty());
}

#[test]
fn one_call_does_not_deliver_everything() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let frame = sample(20).frame();
    for _ in 0..=RECEIVE_BUDGET {
        guest.send(&mut loopback, &frame, plain());
    }
    for _ in 0..=RECEIVE_BUDGET {
        guest.post();
    }
    assert!(loopback.receive(&mut guest.io()));
    assert_eq!(guest.received().len(), RECEIVE_BUDGET);
    assert!(!loopback.receive(&mut guest.io()));
    assert_eq!(guest.received().len(), 1);
}

#[test]
fn a_bad_buffer_does_not_cost_the_packet() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let bad = [NOWHERE, READ_ONLY, UNREACHABLE].map(|at| guest.post_cut(&[segment(at, 64)]));
    let good = guest.post();
    let frame = sample(20).frame();
    assert_eq!(guest.send(&mut loopback, &frame, plain()), TxStatus::Sent);
    let received = guest.received();
    let ids: Vec<_> = received.iter().map(|p| p.id).collect();
    assert_eq!(ids, [bad[0], bad[1], bad[2], good]);
    for packet in &received[..3] {
        assert_eq!(packet.flags, RxFlags::MEMORY_FAULT);
    }
    assert_eq!(guest.content(&received[3]), frame);
}

#[test]
fn a_small_buffer_gets_the_beginning() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    guest.post_cut(&[segment(LARGE + 4096, 60)]);
    let frame = sample(500).frame();
    assert_eq!(guest.send(&mut loopback, &frame, plain()), TxStatus::Sent);
    let received = guest.received();
    assert_eq!(received[0].length as usize, frame.len());
    assert!(received[0].flags.contains(RxFlags::TRUNCATED));
}

#[test]
fn wrong_packets_are_refused() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    guest.post();
    let frame = sample(20).frame();
    let gone = segment(NOWHERE, 100);
    let mut refuse = |frame: &[u8], packet, parts: &[Segment]| {
        guest.send_cut(&mut loopback, frame, packet, parts)
    };
    let whole = segment(TX_AREA, frame.len() as u32);
    assert_eq!(
        refuse(&frame, plain(), &[whole, gone]),
        TxStatus::MemoryFault
    );
    let short = segment(TX_AREA, 13);
    assert_eq!(refuse(&frame, plain(), &[short]), TxStatus::BadHeaders);
    let long = segment(TX_AREA, 66_000);
    assert_eq!(refuse(&frame, plain(), &[long]), TxStatus::TooLong);
    let tcp = asking(Offloads::TCP_CHECKSUM, 0);
    assert_eq!(refuse(&frame, tcp, &[whole]), TxStatus::BadHeaders);
    let sample = Sample::new(IpVersion::V6, Transport::Tcp, 5000);
    let frame = sample.unsegmented();
    let whole = segment(TX_AREA, frame.len() as u32);
    let cut = |size| sample.segmentation_offload(size);
    assert_eq!(refuse(&frame, cut(1000), &[whole]), TxStatus::BadHeaders);
    assert_eq!(refuse(&frame, cut(5000), &[whole]), TxStatus::Sent);
}

#[test]
fn memory_may_go_away_while_a_packet_waits() {
    let (mut guest, mut loopback) = (Guest::new(), LoopbackQueue::default());
    let frame = sample(20).frame();
    let at = [segment(LOW, frame.len() as u32)];
    let status = guest.send_cut(&mut loopback, &frame, plain(), &at);
    assert_eq!(status, TxStatus::Pending);
    guest.memory.unmap(LOW, HIGH - LOW).unwrap();
    guest.post();
    assert!(!loopback.receive(&mut guest.io()));
    assert!(guest.received().is_empty());
    assert_eq!(guest.done.transmitted[0].status, TxStatus::MemoryFault);
}

/// The queues of a loopback, and the guest's side of each.
struct Sides {
    endpoint: Loopback,
    queues: Vec<LoopbackQueue>,
    guests: Vec<Guest>,
}

impl Sides {
    /// Creates this many queues, to which a table steers packets.
    fn new(queues: u16, table: &[u16]) -> Self {
        let mut endpoint = Loopback::with_queues(queues);
        let mut sides = Self {
            queues: std::mem::take(&mut endpoint.queues),
            guests: (0..queues).map(|_| Guest::new()).collect(),
            endpoint,
        };
        sides.steer(table);
        sides
    }

    fn steer(&mut self, table: &[u16]) {
        let steering = Steering {
            hash_types: HashTypes::all(),
            key: *KEY,
            table: table.to_vec(),
            default_queue: table[0].into(),
        };
        for (queue, guest) in self.queues.iter_mut().zip(&mut self.guests) {
            queue.settle(&mut guest.io());
        }
        let rss = Rss::new(&steering, true);
        self.endpoint.steer(Some(Arc::new(rss)));
    }

    fn send(&mut self, queue: usize, frame: &[u8]) -> TxStatus {
        self.guests[queue].send(&mut self.queues[queue], frame, plain())
    }

    fn receive(&mut self, queue: usize) -> Vec<RxPacket> {
        let guest = &mut self.guests[queue];
        while self.queues[queue].receive(&mut guest.io()) {}
        guest.received()
    }
}

/// A key that distinguishes flows.
const KEY: &[u8; 40] = b"a key of forty bytes, of which all count";

/// Returns a frame of a flow, and the queue that its hash names.
fn flow(port: u16, table: &[u16]) -> (Vec<u8>, u16, u32) {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(port, 7);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[9; 400]).unwrap();
    let hash = Toeplitz::new(KEY).hash(&frame[26..34], &frame[34..38]);
    (frame, table[hash as usize % table.len()], hash)
}

#[test]
fn packets_go_to_the_queue_that_the_table_names() {
    let table = [2, 0, 1, 2];
    let mut sides = Sides::new(3, &table);
    for port in 0..32 {
        let (frame, queue, hash) = flow(port, &table);
        let queue = usize::from(queue);
        sides.guests[queue].post();
        let status = sides.send(usize::from(port) % 3, &frame);
        assert_eq!(status, TxStatus::Sent);
        let received = sides.receive(queue);
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].hash, hash);
        assert!(received[0].flags.contains(RxFlags::HASH_L4));
        assert_eq!(sides.guests[queue].content(&received[0]), frame);
    }
}

#[test]
fn a_queue_without_buffers_stops_no_other() {
    let table = [0, 1];
    let mut sides = Sides::new(2, &table);
    let of = |queue| {
        (0..99)
            .map(|port| flow(port, &table))
            .find(|it| it.1 == queue)
    };
    let (slow, _, _) = of(1).unwrap();
    let (quick, _, _) = of(0).unwrap();
    for _ in 0..1000 {
        assert_eq!(sides.send(0, &slow), TxStatus::Sent);
    }
    sides.guests[0].post();
    assert_eq!(sides.send(0, &quick), TxStatus::Sent);
    assert_eq!(sides.receive(0).len(), 1);
    assert_eq!(sides.queues[0].counters().receive.dropped, 1000 - 256);
    assert_eq!(sides.queues[0].pending(), 0);
}

#[test]
fn order_in_a_flow_is_kept_across_a_change_of_the_table() {
    let mut sides = Sides::new(2, &[1]);
    let frames: Vec<_> = (0..4).map(|i| sample(100 + i).frame()).collect();
    assert_eq!(sides.send(0, &frames[0]), TxStatus::Sent);
    assert_eq!(sides.send(0, &frames[1]), TxStatus::Sent);
    sides.guests[1].post();
    sides.steer(&[0]);
    // One was delivered, and the other is lost rather than delivered after later ones.
    let received = sides.guests[1].received();
    assert_eq!(received.len(), 1);
    assert_eq!(sides.guests[1].content(&received[0]), frames[0]);
    sides.guests[0].post();
    sides.guests[1].post();
    assert_eq!(sides.send(0, &frames[2]), TxStatus::Sent);
    assert!(sides.receive(1).is_empty());
    let received = sides.receive(0);
    assert_eq!(sides.guests[0].content(&received[0]), frames[2]);
}

#[test]
fn what_all_goes_to_one_queue_waits_for_it() {
    let mut sides = Sides::new(2, &[1]);
    let frame = sample(100).frame();
    for _ in 0..256 {
        assert_eq!(sides.send(0, &frame), TxStatus::Sent);
    }
    assert_eq!(sides.send(0, &frame), TxStatus::Pending);
    sides.guests[1].post();
    assert_eq!(sides.receive(1).len(), 1);
    assert_eq!(sides.guests[1].woken.collect::<Vec<_>>(), [0]);
    sides.receive(0);
    assert_eq!(sides.guests[0].done.transmitted.len(), 1);
    assert_eq!(sides.queues[0].pending(), 0);
}

#[test]
fn a_cancelled_queue_gets_nothing_of_what_waited() {
    let mut sides = Sides::new(2, &[1]);
    let frame = sample(100).frame();
    sides.send(0, &frame);
    sides.queues[1].cancel_receive();
    sides.guests[1].post();
    assert!(sides.receive(1).is_empty());
    assert_eq!(sides.queues[1].counters().receive.dropped, 1);
}

#[test]
fn long_packets_cross_whole() {
    let mut sides = Sides::new(2, &[1]);
    let frame = sample(1400).frame();
    sides.guests[1].post();
    let tagged = with_tag(&frame, 0x6005);
    assert_eq!(sides.send(0, &tagged), TxStatus::Sent);
    let received = sides.receive(1).remove(0);
    assert_eq!(
        (received.vlan_tci, received.length as usize),
        (0x6005, frame.len())
    );
    assert_eq!(sides.guests[1].content(&received), frame);
}
