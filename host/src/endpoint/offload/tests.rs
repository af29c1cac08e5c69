//! Patched headers, against packets that etherparse built.

use proptest::prelude::*;

use super::*;
use crate::endpoint::head::HEAD_BYTES;
use crate::endpoint::testing::{Sample, asking, kinds, plain, samples, tagged, with_tag};
use crate::memory::tests::{LARGE, guest_memory, segment};

const MTU: usize = 1500;

/// Prepares a frame. Returns what is sent.
fn send(frame: &[u8], packet: &TxPacket, mtu: usize) -> Result<(VnetHeader, Vec<u8>), Refusal> {
    let memory = guest_memory();
    memory.write(LARGE, frame).unwrap();
    let mut head: Head = Head::default();
    let parts = [segment(LARGE, frame.len().max(1) as u32)];
    head.load(&memory, parts).unwrap();
    head.truncate(frame.len());
    let request = Request::of(packet)?;
    let prepared = prepare(&request, &mut head, frame.len(), mtu)?;
    let rest = frame.get(head.copied()..prepared.length).unwrap_or(&[]);
    Ok((prepared.vnet, [head.bytes(), rest].concat()))
}

/// Does what the kernel does for `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
fn complete(vnet: &VnetHeader, frame: &mut [u8]) {
    let Some(partial) = vnet.partial else { return };
    let start = usize::from(partial.start);
    let sum = etherparse::checksum::Sum16BitWords::new()
        .add_slice(&frame[start..])
        .to_ones_complement_with_no_zero();
    let field = start + usize::from(partial.offset);
    frame[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Returns an IPv6 frame with a routing header.
fn routed(segments_left: u8) -> Sample {
    let mut sample = Sample::new(IpVersion::V6, Transport::Udp, 50);
    sample.ip_options = 8;
    sample.payload[0] = segments_left;
    sample
}

#[test]
fn a_packet_without_offloads_is_unchanged() {
    let frame = Sample::new(IpVersion::V4, Transport::Tcp, 100).without_checksum();
    let (vnet, sent) = send(&frame, &plain(), MTU).unwrap();
    assert_eq!(vnet, VnetHeader::default());
    assert_eq!(sent, frame);
}

#[test]
fn segmentation_is_described() {
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut sample = Sample::new(version, Transport::Tcp, 5001);
        sample.cwr = true;
        sample.tcp_options = 12;
        let packet = tagged(sample.segmentation_offload(1000), 77);
        let (vnet, sent) = send(&sample.unsegmented(), &packet, MTU).unwrap();
        let start = sample.transport_offset() as u16 + 4;
        let expected = VnetHeader {
            partial: Some(PartialChecksum { start, offset: 16 }),
            data_valid: false,
            gso: match version {
                IpVersion::V4 => GsoType::TcpV4,
                IpVersion::V6 => GsoType::TcpV6,
            },
            ecn: true,
            header_length: start + 32,
            segment_size: 1000,
        };
        assert_eq!(vnet, expected);
        let mut whole = sent;
        complete(&vnet, &mut whole);
        assert_eq!(whole, with_tag(&sample.frame(), 77));
    }
}

#[test]
fn one_segment_is_not_cut() {
    let sample = Sample::new(IpVersion::V4, Transport::Tcp, 1000);
    let packet = sample.segmentation_offload(1000);
    let (vnet, mut sent) = send(&sample.unsegmented(), &packet, MTU).unwrap();
    assert_eq!(vnet.gso, GsoType::None);
    complete(&vnet, &mut sent);
    assert_eq!(sent, sample.frame());
}

#[test]
fn segments_must_fit_the_port_and_be_worth_it() {
    let sample = Sample::new(IpVersion::V4, Transport::Tcp, 5000);
    let cut = |size| {
        send(
            &sample.unsegmented(),
            &sample.segmentation_offload(size),
            MTU,
        )
    };
    assert!(cut(1460).is_ok());
    assert_eq!(cut(1461).unwrap_err(), Refusal::TooLong);
    assert!(cut(MIN_SEGMENT_BYTES).is_ok());
    assert_eq!(cut(MIN_SEGMENT_BYTES - 1).unwrap_err(), Refusal::BadHeaders);
    assert_eq!(cut(0).unwrap_err(), Refusal::BadHeaders);
}

#[test]
fn segments_may_have_two_tags_and_the_mtu() {
    for (tags, insert) in [
        (0, false),
        (1, false),
        (2, false),
        (0, true),
        (1, true),
        (2, true),
    ] {
        let mut sample = Sample::new(IpVersion::V4, Transport::Tcp, 5000);
        sample.tags = tags;
        let cut = |size| {
            let packet = sample.segmentation_offload(size);
            let packet = if insert { tagged(packet, 7) } else { packet };
            send(&sample.unsegmented(), &packet, MTU)
        };
        // The third tag is payload.
        let most = if tags == 2 && insert { 1456 } else { 1460 };
        assert!(cut(most).is_ok(), "{tags} tags, one inserted: {insert}");
        assert_eq!(cut(most + 1), Err(Refusal::TooLong));
    }
}

#[test]
fn the_ip_version_need_not_be_given() {
    // As Linux requests it if the EtherType is that of an 802.1ad tag.
    for (version, transport) in kinds() {
        for tags in 0..=2 {
            let mut sample = Sample::new(version, transport, 100);
            sample.tags = tags;
            let wanted = match transport {
                Transport::Tcp => Offloads::TCP_CHECKSUM,
                Transport::Udp => Offloads::UDP_CHECKSUM,
            };
            let packet = asking(wanted, sample.transport_offset());
            let (vnet, mut sent) = send(&sample.without_checksum(), &packet, MTU).unwrap();
            complete(&vnet, &mut sent);
            assert_eq!(sent, sample.frame(), "{tags} tags");
        }
        let mut sample = Sample::new(version, Transport::Tcp, 5000);
        sample.tags = 1;
        let packet = TxPacket {
            segment_size: 1000,
            ..asking(Offloads::TCP_SEGMENTATION, sample.transport_offset())
        };
        let (vnet, mut sent) = send(&sample.unsegmented(), &packet, MTU).unwrap();
        complete(&vnet, &mut sent);
        assert_eq!(sent, sample.frame());
    }
}

#[test]
fn an_ip_packet_has_at_most_64_kib() {
    for (version, most) in [(IpVersion::V4, 65535 - 40), (IpVersion::V6, 65535 - 20)] {
        let sample = Sample::new(version, Transport::Tcp, most);
        let mut frame = sample.unsegmented();
        let packet = sample.segmentation_offload(1000);
        assert!(send(&frame, &packet, MTU).is_ok());
        frame.push(0);
        assert_eq!(send(&frame, &packet, MTU), Err(Refusal::TooLong));
    }
}

#[test]
fn a_frame_may_be_as_long_as_the_mtu_and_its_tags() {
    for tags in 0..=2 {
        let mut sample = Sample::new(IpVersion::V4, Transport::Udp, MTU - 28);
        sample.tags = tags;
        let mut frame = sample.frame();
        let longest = 14 + 4 * tags + MTU;
        assert_eq!(frame.len(), longest);
        assert!(send(&frame, &plain(), MTU).is_ok());
        // An inserted tag counts, and a third one is payload.
        let inserted = send(&frame, &tagged(plain(), 1), MTU);
        assert_eq!(inserted.is_ok(), tags < 2, "{tags} tags and one more");
        frame.push(0);
        assert_eq!(send(&frame, &plain(), MTU), Err(Refusal::TooLong));
    }
    assert_eq!(send(&[0; 13], &plain(), MTU), Err(Refusal::BadHeaders));
    assert!(send(&[0; 14], &plain(), MTU).is_ok());
}

#[test]
fn padding_is_not_summed() {
    let sample = Sample::new(IpVersion::V4, Transport::Udp, 1);
    let mut padded = sample.without_checksum();
    padded.resize(60, 0xaa);
    let (vnet, mut sent) = send(&padded, &sample.checksum_offload(), MTU).unwrap();
    complete(&vnet, &mut sent);
    assert_eq!(sent, sample.frame());
}

#[test]
fn requests_must_not_contradict_themselves() {
    let both = [
        Offloads::IPV4 | Offloads::IPV6,
        Offloads::TCP_CHECKSUM | Offloads::UDP_CHECKSUM,
        Offloads::TCP_SEGMENTATION | Offloads::UDP_CHECKSUM,
    ];
    for offloads in both {
        let refused = Request::of(&asking(offloads, 0));
        assert_eq!(refused, Err(Refusal::BadHeaders));
    }
}

#[test]
fn requests_must_fit_the_headers() {
    for (version, transport) in kinds() {
        let sample = Sample::new(version, transport, 100);
        let frame = sample.without_checksum();
        let good = sample.checksum_offload();
        let other_transport = Sample::new(version, other(transport), 0).checksum_offload();
        let elsewhere = TxPacket {
            l4_offset: good.l4_offset + 2,
            ..good
        };
        let mut other_version = good;
        other_version.offloads ^= Offloads::IPV4 | Offloads::IPV6;
        for bad in [other_transport, elsewhere, other_version] {
            assert_eq!(send(&frame, &bad, MTU), Err(Refusal::BadHeaders));
        }
        // The offset may be left unknown.
        let unknown = TxPacket {
            l4_offset: 0,
            ..good
        };
        assert!(send(&frame, &unknown, MTU).is_ok());
        // Truncated headers, and an IP packet longer than its frame.
        for end in 0..frame.len() {
            let refused = send(&frame[..end], &good, MTU);
            assert_eq!(refused, Err(Refusal::BadHeaders), "{end} bytes");
        }
    }
}

fn other(transport: Transport) -> Transport {
    match transport {
        Transport::Tcp => Transport::Udp,
        Transport::Udp => Transport::Tcp,
    }
}

#[test]
fn fragments_have_no_checksum_to_fill_in() {
    let sample = Sample::new(IpVersion::V4, Transport::Udp, 100);
    let mut frame = sample.without_checksum();
    frame[14 + 6] = 0x20; // more fragments
    let packet = sample.checksum_offload();
    assert_eq!(send(&frame, &packet, MTU), Err(Refusal::BadHeaders));
    let only_ip = asking(Offloads::IPV4 | Offloads::IP_CHECKSUM, 0);
    let (vnet, sent) = send(&frame, &only_ip, MTU).unwrap();
    assert_eq!(vnet.partial, None);
    assert!(checksum::is_good(&sent[14..34]));
}

#[test]
fn a_source_route_is_refused_until_its_last_hop() {
    // The destination options header becomes a routing header (43).
    let sample = routed(0);
    let mut frame = sample.without_checksum();
    frame[14 + 6] = 43;
    frame[14 + 40 + 3] = 1;
    let packet = sample.checksum_offload();
    assert_eq!(send(&frame, &packet, MTU), Err(Refusal::BadHeaders));
    frame[14 + 40 + 3] = 0;
    assert!(send(&frame, &packet, MTU).is_ok());
}

proptest! {
    #[test]
    fn checksums_come_out_right(sample in samples(), insert in any::<Option<u16>>()) {
        let mut packet = sample.checksum_offload();
        packet.offloads |= Offloads::IP_CHECKSUM;
        let mut expected = sample.frame();
        let mut frame = sample.without_checksum();
        if sample.version == IpVersion::V4 {
            let ip = Layout::parse(&frame).unwrap().ip;
            frame[ip + 10..ip + 12].copy_from_slice(b"??");
        }
        if let Some(tci) = insert {
            packet = tagged(packet, tci);
            expected = with_tag(&expected, tci);
        }
        let (vnet, mut sent) = send(&frame, &packet, MTU).unwrap();
        complete(&vnet, &mut sent);
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn segmentation_sets_lengths_and_checksums(mut sample in samples(), size in 8u16..1000) {
        sample.transport = Transport::Tcp;
        let packet = sample.segmentation_offload(size);
        let (vnet, mut sent) = send(&sample.unsegmented(), &packet, MTU).unwrap();
        complete(&vnet, &mut sent);
        prop_assert_eq!(sent, sample.frame());
        prop_assert_eq!(vnet.gso != GsoType::None, sample.payload.len() > size.into());
    }

    #[test]
    fn damaged_headers_never_panic(
        sample in samples(),
        damage in prop::collection::vec((0usize..HEAD_BYTES, any::<u8>()), 0..8),
        length in 0usize..1400,
        packet in packets(),
    ) {
        let mut frame = sample.frame();
        for (at, byte) in damage {
            if let Some(target) = frame.get_mut(at) {
                *target = byte;
            }
        }
        frame.truncate(length);
        if let Ok((vnet, sent)) = send(&frame, &packet, MTU)
            && let Some(partial) = vnet.partial
        {
            // The offsets in the kernel's header are inside the frame.
            prop_assert!(usize::from(partial.start + partial.offset) + 2 <= sent.len());
            prop_assert!(usize::from(vnet.header_length) <= sent.len());
        }
    }

    #[test]
    fn noise_never_panics(
        frame in prop::collection::vec(any::<u8>(), 0..400),
        packet in packets(),
        mtu in 68usize..65535,
    ) {
        let _ = send(&frame, &packet, mtu);
    }
}

/// Generates packets with any requests.
fn packets() -> impl Strategy<Value = TxPacket> {
    let flags = [
        Offloads::IPV4,
        Offloads::IPV6,
        Offloads::IP_CHECKSUM,
        Offloads::TCP_CHECKSUM,
        Offloads::UDP_CHECKSUM,
        Offloads::TCP_SEGMENTATION,
        Offloads::INSERT_VLAN,
    ];
    let offset = prop_oneof![Just(0), Just(34), Just(54), any::<u16>()];
    (any::<u8>(), offset, any::<u16>(), any::<u16>()).prop_map(
        move |(bits, l4_offset, segment_size, vlan_tci)| {
            let chosen = flags.iter().enumerate();
            let chosen = chosen.filter(|(index, _)| bits & (1 << index) != 0);
            TxPacket {
                offloads: chosen.fold(Offloads::empty(), |all, (_, flag)| all | *flag),
                segment_size,
                vlan_tci,
                ..asking(Offloads::empty(), l4_offset.into())
            }
        },
    )
}
