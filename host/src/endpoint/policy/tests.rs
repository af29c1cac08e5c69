//! Packets that pass a policy, for each kind of endpoint.

use std::os::unix::net::UnixStream;

use super::*;
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Guest, Sample, TX_AREA, plain, tagged, with_tag};
use crate::endpoint::{Endpoint, Loopback, Null, Queue, Single, Stream, TxStatus};
use crate::memory::tests::segment;

/// The sender of the samples.
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn policy() -> Policy {
    Policy {
        mac: OWN,
        spoof_check: false,
        promiscuous: true,
        vlans: None,
    }
}

fn spoof_check() -> Policy {
    Policy {
        spoof_check: true,
        ..policy()
    }
}

fn vlans(list: &str) -> Policy {
    Policy {
        vlans: Some(list.parse().unwrap()),
        ..policy()
    }
}

/// Returns a frame from one address to another.
fn frame(from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let mut frame = Sample::new(IpVersion::V4, Transport::Udp, 40).frame();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

/// Returns the only queue of an endpoint with a policy.
fn guarded(endpoint: impl Endpoint + 'static, policy: Policy) -> Box<dyn Queue> {
    let mut guarded = Guarded::new(Box::new(endpoint), policy).unwrap();
    guarded.take_queues().remove(0)
}

fn refused(queue: &dyn Queue) -> RefusedCounters {
    queue.counters().refused.clone()
}

#[test]
fn lists_of_vlans_are_ids_and_ranges() {
    for (text, shown) in [
        ("1,5-9", "1,5-9"),
        ("0", "0"),
        ("9,5-8,7,4094", "5-9,4094"),
        ("0-4094", "0-4094"),
        ("3-3", "3"),
    ] {
        let vlans: Vlans = text.parse().unwrap();
        assert_eq!(vlans.to_string(), shown);
    }
    let vlans: Vlans = "1,5-9".parse().unwrap();
    let has: Vec<_> = (0..=u16::MAX).filter(|id| vlans.contains(*id)).collect();
    assert_eq!(has, [1, 5, 6, 7, 8, 9]);
    for wrong in [
        "", ",", "1,", "x", "-1", "+1", "1-", "9-5", "4095", "1--2", "1 ", "65537", "0x1",
    ] {
        let error = wrong.parse::<Vlans>().unwrap_err();
        assert_eq!(error, InvalidVlans(wrong.to_owned()));
        assert!(error.to_string().contains("as in 1,5-9"), "{error}");
    }
}

#[test]
fn a_guest_sends_from_its_own_address_only() {
    for endpoint in [
        Box::new(Null::new()) as Box<dyn Endpoint>,
        Box::new(Loopback::new()),
    ] {
        let mut queue = Guarded::new(endpoint, spoof_check()).unwrap();
        let mut queue = queue.take_queues().remove(0);
        let mut guest = Guest::new();
        (0..4).for_each(|_| assert!(guest.post() < 4));
        let mut send = |from| guest.send(&mut *queue, &frame(from, OTHER), plain());
        assert_eq!(send(OWN), TxStatus::Sent);
        for other in [OTHER, [0; 6], [0xff; 6]] {
            assert_eq!(send(other), TxStatus::Dropped);
        }
        let counters = queue.counters();
        assert_eq!((counters.refused.source, counters.refused.sent()), (3, 3));
        assert_eq!(counters.transmit.packets, 1);
    }
}

#[test]
fn an_address_in_two_segments_is_checked_as_a_whole() {
    for from in [OWN, OTHER] {
        let (mut guest, mut queue) = (Guest::new(), guarded(Null::new(), spoof_check()));
        let frame = frame(from, OWN);
        let rest = frame.len() as u32 - 8;
        let cut = [segment(TX_AREA, 8), segment(TX_AREA + 8, rest)];
        let status = guest.send_cut(&mut *queue, &frame, plain(), &cut);
        assert_eq!(status == TxStatus::Sent, from == OWN);
    }
}

#[test]
fn a_guest_sends_to_its_own_vlans_only() {
    let (mut guest, plain_frame) = (Guest::new(), frame(OWN, OTHER));
    let mut queue = guarded(Null::new(), vlans("1,5-9"));
    let mut send = |frame: &[u8], packet| guest.send(&mut *queue, frame, packet);
    // A tag in the frame and an inserted one are treated alike.
    for control in [1, 5, 9, 0x6005] {
        let own = with_tag(&plain_frame, control);
        assert_eq!(send(&own, plain()), TxStatus::Sent);
        assert_eq!(send(&plain_frame, tagged(plain(), control)), TxStatus::Sent);
    }
    for control in [0, 2, 4095, 0x6002] {
        let own = with_tag(&plain_frame, control);
        assert_eq!(send(&own, plain()), TxStatus::Dropped);
        assert_eq!(
            send(&plain_frame, tagged(plain(), control)),
            TxStatus::Dropped
        );
    }
    assert_eq!(send(&plain_frame, plain()), TxStatus::Dropped);
    // A switch may forward by a second tag, and another kind of tag has ids of its own.
    let twice = with_tag(&with_tag(&plain_frame, 2), 5);
    assert_eq!(send(&twice, plain()), TxStatus::Dropped);
    let mut service = with_tag(&plain_frame, 5);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(send(&service, plain()), TxStatus::Dropped);
    assert_eq!(refused(&*queue).sent_vlan, 11);

    let mut queue = guarded(Null::new(), vlans("0"));
    assert_eq!(
        guest.send(&mut *queue, &plain_frame, plain()),
        TxStatus::Sent
    );
    let tagged = with_tag(&plain_frame, 7);
    assert_eq!(guest.send(&mut *queue, &tagged, plain()), TxStatus::Dropped);
}

#[test]
fn a_guest_receives_what_is_addressed_to_it() {
    let own = Policy {
        promiscuous: false,
        ..policy()
    };
    let (mut guest, mut queue) = (Guest::new(), guarded(Loopback::new(), own));
    for to in [OWN, OTHER, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
        guest.post();
        let status = guest.send(&mut *queue, &frame(OTHER, to), plain());
        assert_eq!(status, TxStatus::Sent, "it leaves in any case");
    }
    assert_eq!(guest.received().len(), 3);
    assert_eq!(refused(&*queue).destination, 1);
    assert_eq!(refused(&*queue).received(), 1);
    assert_eq!(queue.counters().transmit.packets, 4);
}

#[test]
fn frames_of_a_stream_are_held_to_the_policy() {
    use std::io::{Read, Write};
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let stream = Stream::new("test", ours.into()).unwrap();
    let own = Policy {
        promiscuous: false,
        spoof_check: true,
        ..vlans("0,7")
    };
    let (mut guest, mut queue) = (Guest::new(), guarded(stream, own));
    for frame in [
        frame(OTHER, OTHER),
        with_tag(&frame(OTHER, OWN), 8),
        frame(OTHER, OWN),
        with_tag(&with_tag(&frame(OTHER, OWN), 8), 7),
        with_tag(&frame(OTHER, OWN), 7),
    ] {
        let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
        theirs.write_all(&[&length, &frame[..]].concat()).unwrap();
        guest.post();
    }
    while queue.receive(&mut guest.io()) {}
    let received = guest.received();
    let tags: Vec<_> = received.iter().map(|packet| packet.vlan_tci).collect();
    assert_eq!(tags, [0, 7]);

    assert_eq!(
        guest.send(&mut *queue, &frame(OTHER, OTHER), plain()),
        TxStatus::Dropped
    );
    assert_eq!(
        guest.send(&mut *queue, &frame(OWN, OTHER), plain()),
        TxStatus::Sent
    );
    let mut first = vec![0; 4 + frame(OWN, OTHER).len()];
    theirs.read_exact(&mut first).unwrap();
    assert_eq!(first[4..], frame(OWN, OTHER), "no earlier frame was sent");
    let counted = RefusedCounters {
        source: 1,
        sent_vlan: 0,
        destination: 1,
        received_vlan: 2,
    };
    assert_eq!(refused(&*queue), counted);
}

#[test]
fn only_endpoints_that_check_policies_have_one() {
    let mut null = Null::new().take_queues();
    let unaware = Single::new("unaware", Forwarding(null.remove(0)));
    let error = Guarded::new(Box::new(unaware), spoof_check()).unwrap_err();
    assert!(error.to_string().contains("unaware"), "{error}");
    assert!(!policy().restricts() && spoof_check().restricts() && vlans("0").restricts());
}

/// A queue of an implementation that does not support policies.
struct Forwarding(Box<dyn Queue>);

impl Queue for Forwarding {
    fn transmit(
        &mut self,
        io: &mut crate::endpoint::QueueIo<'_>,
        batch: crate::endpoint::TxBatch<'_>,
        status: &mut Vec<TxStatus>,
    ) {
        self.0.transmit(io, batch, status);
    }

    fn receive(&mut self, io: &mut crate::endpoint::QueueIo<'_>) -> bool {
        self.0.receive(io)
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
