use super::*;
use crate::endpoint::testing::{Sample, with_tag};
use crate::endpoint::toeplitz;

const ALL: HashTypes = HashTypes::all();

fn steering(hash_types: HashTypes, table: &[u16], default_queue: u32) -> Steering {
    Steering {
        hash_types,
        key: toeplitz::tests::KEY,
        table: table.to_vec(),
        default_queue,
    }
}

fn look(rss: &Rss, frame: &[u8]) -> Destination {
    rss.look(frame, Layout::parse(frame).as_ref())
}

/// Returns an IPv4 frame with the endpoints of a published value.
fn published(index: usize, udp: bool) -> Vec<u8> {
    let (destination, source, ..) = toeplitz::tests::IPV4[index];
    let octets = |end: (&str, u16)| end.0.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(octets(source), octets(destination), 64);
    let mut frame = Vec::new();
    if udp {
        let step = builder.udp(source.1, destination.1);
        step.write(&mut frame, &[0; 20]).unwrap();
    } else {
        let step = builder.tcp(source.1, destination.1, 3, 4);
        step.write(&mut frame, &[0; 20]).unwrap();
    }
    frame
}

#[test]
fn frames_have_the_published_hashes() {
    let rss = Rss::new(&steering(ALL, &[0, 1, 2, 3], 0), true);
    for (index, (.., with_ports)) in toeplitz::tests::IPV4.into_iter().enumerate() {
        for udp in [false, true] {
            let expected = Destination {
                queue: (with_ports & 3) as u16,
                hash: with_ports,
                flags: RxFlags::HASH_L4,
            };
            let frame = published(index, udp);
            assert_eq!(look(&rss, &frame), expected);
            // The tag is not hashed.
            assert_eq!(look(&rss, &with_tag(&frame, 5)), expected);
        }
    }
}

#[test]
fn types_that_are_not_asked_for_are_not_hashed() {
    let (.., of_addresses, with_ports) = toeplitz::tests::IPV4[0];
    let (l3, l4) = (RxFlags::HASH_L3, RxFlags::HASH_L4);
    let cases = [
        (HashTypes::IPV4, false, of_addresses, l3),
        (
            HashTypes::IPV4 | HashTypes::IPV4_UDP,
            false,
            of_addresses,
            l3,
        ),
        (HashTypes::IPV4 | HashTypes::IPV4_UDP, true, with_ports, l4),
        (HashTypes::IPV4_TCP, false, with_ports, l4),
        (HashTypes::IPV4_TCP, true, 0, RxFlags::empty()),
        (
            ALL - HashTypes::IPV4 - HashTypes::IPV4_TCP,
            false,
            0,
            RxFlags::empty(),
        ),
        (HashTypes::empty(), true, 0, RxFlags::empty()),
    ];
    for (types, udp, hash, flags) in cases {
        let found = look(
            &Rss::new(&steering(types, &[], 0), true),
            &published(0, udp),
        );
        assert_eq!((found.hash, found.flags), (hash, flags), "{types:?}");
    }
}

#[test]
fn hashes_are_reported_only_if_they_are_wanted() {
    let steering = steering(ALL, &[0, 1, 2, 3], 0);
    let (reported, kept) = (Rss::new(&steering, true), Rss::new(&steering, false));
    let frame = published(1, false);
    let (reported, kept) = (look(&reported, &frame), look(&kept, &frame));
    assert_eq!(reported.queue, kept.queue);
    assert_ne!(reported.hash, 0);
    assert_eq!((kept.hash, kept.flags), (0, RxFlags::empty()));
}

#[test]
fn fragments_and_tunnels_hash_by_what_is_in_sight() {
    let rss = Rss::new(&steering(ALL, &[], 0), true);
    let of_addresses = toeplitz::tests::IPV4[0].2;
    let mut fragment = published(0, true);
    // The first fragment: no fragment's ports are hashed.
    fragment[14 + 6] |= 0x20;
    let found = look(&rss, &fragment);
    assert_eq!((found.hash, found.flags), (of_addresses, RxFlags::HASH_L3));
    let mut tunnel = published(0, true);
    // GRE (RFC 2784).
    tunnel[14 + 9] = 47;
    let found = look(&rss, &tunnel);
    assert_eq!((found.hash, found.flags), (of_addresses, RxFlags::HASH_L3));
    // Truncated ports.
    let cut = &published(0, true)[..14 + 20 + 3];
    assert_eq!(look(&rss, cut).flags, RxFlags::HASH_L3);
}

#[test]
fn ipv6_hashes_addresses_and_ports() {
    let frame = |payload| {
        let mut sample = Sample::new(IpVersion::V6, Transport::Udp, payload);
        sample.ip_options = 8;
        sample.frame()
    };
    let key = Toeplitz::new(&toeplitz::tests::KEY);
    let frame = frame(10);
    let layout = Layout::parse(&frame).unwrap();
    let addresses = &frame[layout.ip + 8..layout.ip + 40];
    let port = layout.transport.unwrap().offset;
    let all = Rss::new(&steering(ALL, &[], 0), true);
    let hash = key.hash(addresses, &frame[port..port + 4]);
    assert_eq!(
        (look(&all, &frame).hash, look(&all, &frame).flags),
        (hash, RxFlags::HASH_L4)
    );
    let plain = Rss::new(&steering(HashTypes::IPV6, &[], 0), true);
    assert_eq!(look(&plain, &frame).hash, key.hash(addresses, &[]));
    let other = Rss::new(&steering(HashTypes::IPV4, &[], 0), true);
    assert_eq!(look(&other, &frame), Destination::default());
}

#[test]
fn what_has_no_hash_goes_to_the_default_queue() {
    let rss = Rss::new(&steering(ALL, &[0, 1], 3), true);
    let mut arp = [0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    for frame in [&arp[..], &[], &[0; 13]] {
        assert_eq!(look(&rss, frame).queue, 3);
    }
    assert_eq!(rss.only(), None);
    // Without a table all go to the default queue, hashed or not.
    let rss = Rss::new(&steering(ALL, &[], 2), true);
    let found = look(&rss, &published(0, false));
    assert_eq!((found.queue, rss.only()), (2, Some(2)));
    assert_ne!(found.hash, 0);
    assert_eq!(Rss::new(&steering(ALL, &[1; 64], 1), true).only(), Some(1));
}

#[test]
fn invalid_steering_is_named() {
    let check = |table: &[u16], default| steering(ALL, table, default).check(4);
    assert_eq!(check(&[], 3), Ok(()));
    assert_eq!(check(&[3; 1024], 0), Ok(()));
    assert_eq!(check(&[0; 2048], 0), Err(InvalidSteering::Table(2048)));
    assert_eq!(check(&[0; 3], 0), Err(InvalidSteering::Table(3)));
    assert_eq!(check(&[0, 4], 0), Err(InvalidSteering::Queue(4, 4)));
    assert_eq!(check(&[], 4), Err(InvalidSteering::Queue(4, 4)));
    assert_eq!(
        check(&[], u32::MAX),
        Err(InvalidSteering::Queue(u32::MAX, 4))
    );
    for length in [0, 39, 41, 1 << 16] {
        let key = Steering::key(&[0; 1 << 16][..length]);
        assert_eq!(key, Err(InvalidSteering::Key(length)));
    }
}
