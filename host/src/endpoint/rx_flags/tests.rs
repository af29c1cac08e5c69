//! Flags of received frames.

use proptest::prelude::*;

use super::*;
use crate::endpoint::testing::{Sample, kinds, samples};

/// Returns the flags of a frame.
fn classify(frame: &[u8]) -> RxFlags {
    super::classify(frame, Layout::parse(frame).as_ref())
}

#[test]
fn protocols_are_named() {
    for (version, transport) in kinds() {
        let frame = Sample::new(version, transport, 10).frame();
        let ip = match version {
            IpVersion::V4 => RxFlags::IPV4,
            IpVersion::V6 => RxFlags::IPV6,
        };
        let transport = match transport {
            Transport::Tcp => RxFlags::TCP,
            Transport::Udp => RxFlags::UDP,
        };
        let expected = ip | transport | RxFlags::IP_CHECKSUM_GOOD;
        assert_eq!(classify(&frame), expected);
        let good = expected | RxFlags::L4_CHECKSUM_GOOD;
        assert_eq!(with_good_transport_checksum(expected), good);
    }
}

#[test]
fn a_bad_ipv4_header_checksum_is_noticed() {
    let mut frame = Sample::new(IpVersion::V4, Transport::Tcp, 10).frame();
    frame[14 + 8] ^= 1;
    let expected = RxFlags::IPV4 | RxFlags::TCP | RxFlags::IP_CHECKSUM_BAD;
    assert_eq!(classify(&frame), expected);
}

#[test]
fn a_fragment_shows_no_transport() {
    let mut frame = Sample::new(IpVersion::V4, Transport::Udp, 10).frame();
    frame[14 + 7] = 1;
    let flags = classify(&frame);
    assert!(!flags.intersects(RxFlags::UDP | RxFlags::L4_CHECKSUM_GOOD));
    assert_eq!(with_good_transport_checksum(flags), flags);
}

#[test]
fn what_is_not_ip_has_no_flags() {
    assert_eq!(classify(&[]), RxFlags::empty());
    let mut frame = Sample::new(IpVersion::V4, Transport::Udp, 10).frame();
    frame[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(classify(&frame), RxFlags::empty());
}

proptest! {
    #[test]
    fn tags_and_options_are_looked_through(sample in samples()) {
        let frame = sample.frame();
        let flags = classify(&frame[..frame.len().min(LOOK_BYTES)]);
        prop_assert!(flags.contains(RxFlags::IP_CHECKSUM_GOOD));
        prop_assert!(flags.intersects(RxFlags::TCP | RxFlags::UDP));
    }

    #[test]
    fn noise_never_panics(frame in prop::collection::vec(any::<u8>(), 0..LOOK_BYTES)) {
        let _ = classify(&frame);
    }
}
