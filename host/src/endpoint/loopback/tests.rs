//! What goes in comes out.

use super::*;
use crate::endpoint::Offloads;
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Guest, Sample, TX_AREA, asking, kinds, plain, tagged, with_tag};
use crate::memory::tests::{HIGH, LARGE, LOW, NOWHERE, READ_ONLY, UNREACHABLE, segment};

fn sample(payload: usize) -> Sample {
    Sample::new(IpVersion::V4, Transport::Udp, payload)
}

#[test]
fn a_packet_comes_back_as_it_is() {
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
    for (version, transport) in kinds() {
        let sample = Sample::new(version, transport, 500);
        guest.post();
        let frame = sample.without_checksum();
        let status = guest.send(&mut loopback, &frame, sample.checksum_offload());
        assert_eq!(status, TxStatus::Sent);
        let received = guest.received();
        assert!(received[0].flags.contains(RxFlags::L4_CHECKSUM_GOOD));
        // All but the checksum itself is there.
        let field = sample.transport_offset() + transport.checksum_offset();
        let mut seen = guest.content(&received[0]);
        seen[field..field + 2].copy_from_slice(b"??");
        assert_eq!(seen, frame);
    }
    assert_eq!(loopback.counters().transmit.packets, 4);
}

#[test]
fn tags_come_back_beside_the_frame() {
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    // With packets waiting, a new one does not get past them.
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
    let frame = sample(20).frame();
    let mut send = |loopback: &mut Loopback| guest.send(loopback, &frame, plain());
    for _ in 0..Waiting::MAX_PACKETS {
        assert_eq!(send(&mut loopback), TxStatus::Pending);
    }
    assert_eq!(send(&mut loopback), TxStatus::Dropped);
    assert_eq!(loopback.counters().transmit.dropped_busy, 1);
    loopback.cancel();
    guest.post();
    assert!(!loopback.receive(&mut guest.io()));
    assert!(guest.received().is_empty());
    assert!(guest.done.transmitted.is_empty());
}

#[test]
fn one_call_does_not_deliver_everything() {
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
    guest.post_cut(&[segment(LARGE + 4096, 60)]);
    let frame = sample(500).frame();
    assert_eq!(guest.send(&mut loopback, &frame, plain()), TxStatus::Sent);
    let received = guest.received();
    assert_eq!(received[0].length as usize, frame.len());
    assert!(received[0].flags.contains(RxFlags::TRUNCATED));
}

#[test]
fn wrong_packets_are_refused() {
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
    let (mut guest, mut loopback) = (Guest::new(), Loopback::new());
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
