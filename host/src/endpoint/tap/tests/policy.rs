//! A policy's effect on packets in both directions.

use super::{Wire, in_namespace};
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Sample, plain, tagged, with_tag};
use crate::endpoint::{Policy, RefusedCounters, TxStatus};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn frame(from: [u8; 6], to: [u8; 6], payload: usize) -> Vec<u8> {
    let mut frame = Sample::new(IpVersion::V4, Transport::Udp, payload).frame();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

#[test]
fn a_tap_lets_through_what_its_policy_does() {
    in_namespace(|| {
        let mut wire = Wire::new();
        wire.guest.policy = Some(Policy {
            mac: OWN,
            spoof_check: true,
            promiscuous: false,
            vlans: Some("0,7".parse().unwrap()),
        });
        // Of the packets sent, only the last two leave.
        let (plain_frame, last) = (frame(OWN, OTHER, 40), frame(OWN, OTHER, 41));
        let dropped = [
            wire.send(&frame(OTHER, OWN, 40), plain()),
            wire.send(&with_tag(&plain_frame, 8), plain()),
            wire.send(&plain_frame, tagged(plain(), 9)),
        ];
        assert_eq!(dropped, [TxStatus::Dropped; 3]);
        assert_eq!(wire.send(&plain_frame, tagged(plain(), 7)), TxStatus::Sent);
        assert_eq!(wire.send(&last, plain()), TxStatus::Sent);
        assert_eq!(wire.peer.receive(), with_tag(&plain_frame, 7));
        assert_eq!(wire.peer.receive(), last);

        // Of the packets that arrive, only the last is for the guest; one buffer is enough.
        wire.guest.post();
        wire.peer.send(&frame(OTHER, [2, 0, 0, 0, 0, 3], 40));
        wire.peer.send(&with_tag(&frame(OTHER, OWN, 40), 8));
        let own = frame(OTHER, OWN, 50);
        wire.peer.send(&own);
        assert_eq!(wire.receive_frame(), own);
        let refused = RefusedCounters {
            source: 1,
            sent_vlan: 2,
            destination: 1,
            received_vlan: 1,
        };
        assert_eq!(wire.tap.counters.refused, refused);
        assert_eq!(wire.tap.counters.transmit.dropped(), 0);
    });
}
