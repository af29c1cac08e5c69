//! From the network to the guest.

use super::{Wire, in_namespace, only, open, wait_readable};
use crate::endpoint::head::Head;
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::offload::{Request, prepare};
use crate::endpoint::testing::{Guest, Sample, kinds};
use crate::endpoint::vnet::{PartialChecksum, VNET_HEADER_BYTES, VnetHeader};
use crate::endpoint::{Queue, RECEIVE_BUDGET, RxFlags};
use crate::memory::Span;
use crate::memory::tests::{HIGH, LARGE, LOW, NOWHERE, READ_ONLY, UNREACHABLE, pipe, segment};

fn sample(payload: usize) -> Sample {
    Sample::new(IpVersion::V4, Transport::Udp, payload)
}

fn expected_flags(version: IpVersion, transport: Transport) -> RxFlags {
    let ip = match version {
        IpVersion::V4 => RxFlags::IPV4,
        IpVersion::V6 => RxFlags::IPV6,
    };
    let transport = match transport {
        Transport::Tcp => RxFlags::TCP,
        Transport::Udp => RxFlags::UDP,
    };
    ip | transport | RxFlags::IP_CHECKSUM_GOOD
}

/// Returns the frame with a partial checksum, the pseudo header's sum, and the virtio-net header for
/// that, as for packets from the local kernel.
fn partial(sample: &Sample) -> (VnetHeader, Vec<u8>) {
    let guest = Guest::new();
    let mut frame = sample.without_checksum();
    guest.memory.write(LARGE, &frame).unwrap();
    let mut head: Head = Head::default();
    head.load(&guest.memory, [segment(LARGE, frame.len() as u32)])
        .unwrap();
    let request = Request::of(&sample.checksum_offload()).unwrap();
    let prepared = prepare(&request, &mut head, frame.len(), 1500).unwrap();
    frame[..head.bytes().len()].copy_from_slice(head.bytes());
    (prepared.vnet, frame)
}

#[test]
fn a_frame_arrives_in_a_buffer_of_many_segments() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let frame = sample(1201).frame();
        let room = [
            segment(LOW + 1, 3),
            segment(LARGE + 77, 30),
            segment(HIGH - 601, 1001),
            segment(LARGE + 5000, 4000),
        ];
        let id = wire.guest.post_cut(&room);
        wire.peer.send(&frame);
        let packet = wire.receive();
        assert_eq!((packet.id, packet.length as usize), (id, frame.len()));
        let flags = expected_flags(IpVersion::V4, Transport::Udp);
        assert_eq!(packet.flags, flags);
        let mut seen = vec![0; frame.len()];
        let memory = &wire.guest.memory;
        Span::new(room).read(memory, &mut seen).unwrap();
        assert_eq!(seen, frame);
    });
}

/// Returns the frame as the device receives it, without its first tag, which is in the metadata.
fn untagged(mut frame: Vec<u8>, tags: usize) -> Vec<u8> {
    if tags > 0 {
        frame.drain(12..16);
    }
    frame
}

/// A driver's buffer has room for a full frame without a tag.
#[test]
fn a_tag_needs_no_room_in_the_buffer() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let mut sample = sample(1000);
        sample.tags = 1;
        let frame = sample.frame();
        let bare = untagged(frame.clone(), 1);
        let first = segment(LOW + 1, 13);
        let rest = segment(LARGE + 5, bare.len() as u32 - 13);
        wire.guest.post_cut(&[first, rest]);
        wire.peer.send(&frame);
        let packet = wire.receive();
        assert!(packet.flags.contains(RxFlags::VLAN) && !packet.flags.contains(RxFlags::TRUNCATED));
        assert_eq!(packet.vlan_tci.to_be_bytes(), frame[14..16]);
        let mut seen = vec![0; bare.len()];
        Span::new([first, rest])
            .read(&wire.guest.memory, &mut seen)
            .unwrap();
        assert_eq!(seen, bare);
    });
}

#[test]
fn group_addresses_are_reported() {
    in_namespace(|| {
        let mut wire = Wire::new();
        for (first, group) in [
            (0xff, RxFlags::BROADCAST),
            (0x01, RxFlags::MULTICAST),
            (0x02, RxFlags::empty()),
        ] {
            let mut frame = sample(50).frame();
            frame[..6].fill(first);
            wire.guest.post();
            wire.peer.send(&frame);
            let groups = RxFlags::BROADCAST | RxFlags::MULTICAST;
            assert_eq!(wire.receive().flags & groups, group);
        }
    });
}

#[test]
fn partial_checksums_are_completed() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let mut count = 0;
        for (version, transport) in kinds() {
            for payload in [0, 1, 2, 255, 1000, 1401] {
                for tags in [0, 1] {
                    let mut sample = Sample::new(version, transport, payload);
                    sample.tags = tags;
                    let (vnet, frame) = partial(&sample);
                    wire.guest.post();
                    wire.peer.send_with(vnet, &frame);
                    let packet = wire.receive();
                    let mut expected =
                        expected_flags(version, transport) | RxFlags::L4_CHECKSUM_GOOD;
                    if tags == 1 {
                        expected |= RxFlags::VLAN;
                        assert_eq!(packet.vlan_tci.to_be_bytes(), frame[14..16]);
                    }
                    assert_eq!(packet.flags, expected);
                    assert_eq!(wire.guest.content(&packet), untagged(sample.frame(), tags));
                    count += 1;
                }
            }
        }
        assert_eq!(wire.tap.counters.receive.checksums_completed, count);
    });
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_written_as_ones() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let mut sample = sample(2);
        // With its own checksum as the payload, the checksum becomes zero.
        sample.payload = vec![0; 2];
        let offset = sample.transport_offset() + 6;
        sample.payload = sample.frame()[offset..offset + 2].to_vec();
        let (vnet, frame) = partial(&sample);
        wire.guest.post();
        wire.peer.send_with(vnet, &frame);
        let seen = wire.receive_frame();
        assert_eq!(seen[offset..offset + 2], [0xff, 0xff]);
    });
}

/// Delivers a frame through a pipe instead of an interface: no TAP reports a checksum as verified,
/// which needs a network card, or one outside of its frame.
fn deliver(header: [u8; VNET_HEADER_BYTES], frame: &[u8]) -> (RxFlags, Vec<u8>) {
    let mut tap = only(&mut open().unwrap());
    let (from, to) = pipe();
    tap.fd = from;
    let mut guest = Guest::new();
    guest.post();
    rustix::io::write(to, &[&header, frame].concat()).unwrap();
    tap.receive(&mut guest.io());
    let received = guest.received();
    (received[0].flags, guest.content(&received[0]))
}

#[test]
fn verified_checksums_are_reported() {
    in_namespace(|| {
        for (version, transport) in kinds() {
            let frame = Sample::new(version, transport, 99).frame();
            let (flags, seen) = deliver([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame);
            let expected = expected_flags(version, transport);
            assert_eq!(flags, expected | RxFlags::L4_CHECKSUM_GOOD);
            assert_eq!(seen, frame);
        }
    });
}

#[test]
fn a_checksum_outside_of_the_frame_is_left_alone() {
    in_namespace(|| {
        let frame = sample(99).frame();
        for (start, offset) in [(0, 140), (140, 0), (u16::MAX, u16::MAX), (34, 106)] {
            let partial = Some(PartialChecksum { start, offset });
            let vnet = VnetHeader {
                partial,
                ..VnetHeader::default()
            };
            let (flags, seen) = deliver(vnet.to_bytes(), &frame);
            assert!(!flags.contains(RxFlags::L4_CHECKSUM_GOOD));
            assert_eq!(seen, frame);
        }
    });
}

#[test]
fn a_bad_ip_header_is_reported() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let mut frame = sample(50).frame();
        frame[14 + 8] ^= 1;
        wire.guest.post();
        wire.peer.send(&frame);
        let expected = RxFlags::IPV4 | RxFlags::UDP | RxFlags::IP_CHECKSUM_BAD;
        assert_eq!(wire.receive().flags, expected);
    });
}

#[test]
fn a_frame_that_does_not_fit_is_cut_and_its_length_told() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let sample = sample(1400);
        let (vnet, frame) = partial(&sample);
        wire.guest.memory.write(LOW, &[0x55; 200]).unwrap();
        for room in [1, 40, 100] {
            wire.guest.post_cut(&[segment(LOW, room)]);
            wire.peer.send_with(vnet, &frame);
            let packet = wire.receive();
            assert_eq!(packet.length as usize, frame.len());
            assert!(packet.flags.contains(RxFlags::TRUNCATED));
            assert!(!packet.flags.contains(RxFlags::L4_CHECKSUM_GOOD));
            let mut seen = [0; 101];
            let room = room as usize;
            wire.guest.memory.read(LOW, &mut seen[..=room]).unwrap();
            assert_eq!(seen[..room], frame[..room]);
            assert_eq!(seen[room], 0x55);
        }
        assert_eq!(wire.tap.counters.receive.truncated, 3);
    });
}

#[test]
fn without_buffers_frames_wait_in_the_interface() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let frames: Vec<_> = (0..20).map(|i| sample(100 + i).frame()).collect();
        for frame in &frames {
            wire.peer.send(frame);
        }
        wire.wait();
        assert!(!wire.tap.receive(&mut wire.guest.io()));
        assert!(wire.guest.received().is_empty());
        for frame in &frames {
            wire.guest.post();
            assert_eq!(&wire.receive_frame(), frame);
        }
        let now = std::time::Instant::now();
        assert!(!wait_readable(wire.tap.readiness().unwrap(), now));
    });
}

#[test]
fn one_call_takes_only_so_many() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let count = RECEIVE_BUDGET + 10;
        for index in 0..count {
            wire.peer.send(&sample(index).frame());
            wire.guest.post();
        }
        // The last one may arrive slightly later.
        while wire.guest.done.received.len() < count {
            wire.wait();
            let before = wire.guest.done.received.len();
            let more = wire.tap.receive(&mut wire.guest.io());
            let taken = wire.guest.done.received.len() - before;
            assert!(taken <= RECEIVE_BUDGET);
            assert_eq!(more, taken == RECEIVE_BUDGET);
        }
        let ids: Vec<_> = wire.guest.received().iter().map(|p| p.id).collect();
        assert!(ids.is_sorted());
    });
}

/// Frames that were read and then found no buffer are not lost.
#[test]
fn frames_wait_for_buffers_that_are_memory() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let frames: Vec<_> = (0..12).map(|i| sample(100 + i).frame()).collect();
        let mut sent = frames.iter();
        // Enough for batched reads.
        for frame in sent.by_ref().take(8) {
            wire.peer.send(frame);
            wire.guest.post();
        }
        while wire.guest.done.received.len() < 8 {
            wire.wait();
            wire.tap.receive(&mut wire.guest.io());
        }
        wire.guest.received();
        for frame in sent {
            wire.peer.send(frame);
            wire.guest.post_cut(&[segment(NOWHERE, 2048)]);
        }
        while wire.guest.done.received.len() < 4 {
            wire.wait();
            wire.tap.receive(&mut wire.guest.io());
        }
        let faults = wire.guest.received();
        assert!(faults.iter().all(|p| p.flags == RxFlags::MEMORY_FAULT));
        for frame in &frames[8..] {
            wire.guest.post();
            assert_eq!(&wire.receive_frame(), frame);
        }
    });
}

#[test]
fn a_bad_buffer_does_not_cost_the_packet() {
    in_namespace(|| {
        let mut wire = Wire::new();
        let good = [segment(LARGE, 2048)];
        let bad = [
            vec![segment(NOWHERE, 2048)],
            vec![segment(LARGE, 100), segment(READ_ONLY, 2048)],
            vec![segment(UNREACHABLE, 2048)],
        ];
        let mut ids: Vec<_> = bad.iter().map(|b| wire.guest.post_cut(b)).collect();
        ids.push(wire.guest.post_cut(&good));
        // Without a packet there is no error yet.
        assert!(!wire.tap.receive(&mut wire.guest.io()));
        assert!(wire.guest.received().is_empty());

        let frame = sample(300).frame();
        wire.peer.send(&frame);
        wire.wait();
        assert!(!wire.tap.receive(&mut wire.guest.io()));
        let received = wire.guest.received();
        assert!(received.iter().map(|p| p.id).eq(ids));
        for packet in &received[..bad.len()] {
            assert_eq!(packet.flags, RxFlags::MEMORY_FAULT);
        }
        let mut seen = vec![0; frame.len()];
        wire.guest.memory.read(LARGE, &mut seen).unwrap();
        assert_eq!(seen, frame);
        assert_eq!(wire.tap.counters.receive.memory_faults, 3);
    });
}
