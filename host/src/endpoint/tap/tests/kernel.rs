//! The kernel's own sockets as the peer.

use std::net::UdpSocket;

use super::{DEADLINE, NAME, TapQueue, in_namespace, ip, keep_quiet, only, open, wait_readable};
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Guest, Sample};
use crate::endpoint::{Queue, RxFlags, TxStatus};

/// Opens an interface with the addresses of [`Sample`]; the guest has the first one.
fn set_up() -> TapQueue {
    keep_quiet();
    let tap = only(&mut open().unwrap());
    ip(&format!("link set {NAME} address 02:00:00:00:00:02 up"));
    ip(&format!("address add 10.0.0.2/24 dev {NAME}"));
    ip(&format!(
        "neighbour add 10.0.0.1 lladdr 02:00:00:00:00:01 dev {NAME} nud permanent"
    ));
    tap
}

#[test]
fn a_socket_takes_what_we_send_and_its_answer_is_completed() {
    in_namespace(|| {
        let mut tap = set_up();
        let mut guest = Guest::new();
        let socket = UdpSocket::bind("10.0.0.2:2000").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let sample = Sample::new(IpVersion::V4, Transport::Udp, 777);
        let mut data = [0; 2000];
        let spoiled = (sample.without_checksum(), sample.checksum_offload());
        let status = guest.send(&mut tap, &spoiled.0, spoiled.1);
        assert_eq!(status, TxStatus::Sent);
        let (length, from) = socket.recv_from(&mut data).unwrap();
        assert_eq!(&data[..length], sample.payload);
        assert_eq!(from.to_string(), "10.0.0.1:1000");

        socket.send_to(b"an odd answer", from).unwrap();
        guest.post();
        let end = std::time::Instant::now() + DEADLINE;
        assert!(wait_readable(tap.readiness().unwrap(), end));
        assert!(!tap.receive(&mut guest.io()));
        let received = guest.received();
        let packet = &received[0];
        assert!(
            packet
                .flags
                .contains(RxFlags::UDP | RxFlags::L4_CHECKSUM_GOOD)
        );
        check_udp(&guest.content(packet), b"an odd answer");
        assert_eq!(tap.counters.receive.checksums_completed, 1);
    });
}

/// Checks the payload and the checksum of a frame with etherparse.
fn check_udp(frame: &[u8], payload: &[u8]) {
    let parsed = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else {
        panic!("no IPv4: {frame:x?}");
    };
    let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else {
        panic!("no UDP: {frame:x?}");
    };
    assert_eq!(udp.payload(), payload);
    let header = ip.header().to_header();
    let sum = udp
        .to_header()
        .calc_checksum_ipv4(&header, payload)
        .unwrap();
    assert_eq!(udp.checksum(), sum);
}
