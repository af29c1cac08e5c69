//! Packets as a watcher sees them.

use parking_lot::Mutex;

use super::*;
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::testing::{Guest, Sample, asking, kinds, plain, tagged, with_tag};
use crate::endpoint::{Endpoint, Loopback, Null, Offloads};
use crate::memory::tests::{LARGE, NOWHERE, segment};

/// A packet that was shown.
type Seen = (Direction, u16, u32, Vec<u8>);

struct Eye {
    most: usize,
    seen: Mutex<Vec<Seen>>,
}

impl Watcher for Eye {
    fn most(&self) -> usize {
        self.most
    }

    fn look(&self, packet: &Passed<'_>) {
        let Passed {
            direction,
            queue,
            length,
            bytes,
        } = *packet;
        let seen = (direction, queue, length, bytes.to_vec());
        self.seen.lock().push(seen);
    }
}

/// A guest with a watched queue.
struct Scene {
    guest: Guest,
    queue: Box<dyn Queue>,
    eye: Arc<Eye>,
}

impl Scene {
    fn new(mut endpoint: impl Endpoint, most: usize) -> Self {
        let eye = Arc::new(Eye {
            most,
            seen: Mutex::default(),
        });
        let mut queue = endpoint.take_queues().remove(0);
        let watcher: Arc<dyn Watcher> = eye.clone();
        assert!(watch(&mut queue, 3, &watcher));
        Self {
            guest: Guest::new(),
            queue,
            eye,
        }
    }

    fn send(&mut self, frame: &[u8], packet: TxPacket) -> TxStatus {
        self.guest.send(&mut *self.queue, frame, packet)
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.eye.seen.lock())
    }
}

fn sample(payload: usize) -> Sample {
    Sample::new(IpVersion::V4, Transport::Tcp, payload)
}

const LONG: usize = 1 << 18;

#[test]
fn checksums_that_are_left_to_others_are_shown_done() {
    let mut scene = Scene::new(Null::new(), LONG);
    for (version, transport) in kinds() {
        for payload in [1, 150, 1400] {
            let sample = Sample::new(version, transport, payload);
            let frame = sample.without_checksum();
            scene.send(&frame, sample.checksum_offload());
            let right = sample.frame();
            let length = right.len() as u32;
            assert_eq!(scene.seen(), [(Direction::FromGuest, 3, length, right)]);
        }
    }
}

#[test]
fn tags_are_shown_in_place() {
    let mut scene = Scene::new(Loopback::new(), LONG);
    let frame = sample(900).frame();
    let whole = with_tag(&frame, 0x6005);
    let length = whole.len() as u32;
    for (sent, packet) in [(&frame, tagged(plain(), 0x6005)), (&whole, plain())] {
        scene.guest.post();
        assert_eq!(scene.send(sent, packet), TxStatus::Sent);
        let ways = [Direction::FromGuest, Direction::ToGuest];
        let expected = ways.map(|way| (way, 3, length, whole.clone()));
        assert_eq!(scene.seen(), expected);
    }
}

#[test]
fn packet_to_be_segmented_is_shown_whole() {
    let mut scene = Scene::new(Null::new(), LONG);
    let sample = sample(20_000);
    scene.send(&sample.unsegmented(), sample.segmentation_offload(1000));
    let seen = scene.seen();
    let [(Direction::FromGuest, 3, length, bytes)] = &seen[..] else {
        panic!("{seen:?}");
    };
    let mut right = sample.frame();
    assert_eq!(*length as usize, right.len());
    // Each segment gets a checksum of its own.
    let field = sample.transport_offset() + 16;
    right[field..field + 2].copy_from_slice(&bytes[field..field + 2]);
    assert_eq!(*bytes, right);
}

#[test]
fn no_more_is_shown_than_is_wanted() {
    for most in [0, 1, 13, 14, 64, 255, 256, 257, 1000] {
        let mut scene = Scene::new(Loopback::new(), most);
        let frame = sample(1000).frame();
        scene.guest.post();
        scene.send(&frame, tagged(plain(), 5));
        let whole = with_tag(&frame, 5);
        let seen = scene.seen();
        assert_eq!(seen.len(), 2);
        for (_, _, length, bytes) in seen {
            assert_eq!(length as usize, whole.len());
            assert_eq!(bytes, whole[..most.min(whole.len())], "{most}");
        }
    }
}

#[test]
fn what_does_not_pass_is_not_shown() {
    let mut scene = Scene::new(Loopback::new(), LONG);
    assert_eq!(scene.send(&[0; 13], plain()), TxStatus::BadHeaders);
    let wrong = asking(Offloads::UDP_CHECKSUM, 34);
    assert_eq!(scene.send(&sample(1).frame(), wrong), TxStatus::BadHeaders);
    assert!(scene.seen().is_empty());
    // A packet that waits is shown once, and again when it arrives.
    let frame = sample(100).frame();
    assert_eq!(scene.send(&frame, plain()), TxStatus::Pending);
    assert_eq!(scene.seen().len(), 1);
    scene.guest.post_cut(&[segment(NOWHERE, 2048)]);
    scene
        .guest
        .post_cut(&[segment(LARGE + 4096, 20), segment(LARGE, 41)]);
    assert!(!scene.queue.receive(&mut scene.guest.io()));
    // A packet that was truncated to its buffer is shown truncated.
    let length = frame.len() as u32;
    let expected = (Direction::ToGuest, 3, length, frame[..61].to_vec());
    assert_eq!(scene.seen(), [expected]);
}

#[test]
fn one_watches_at_a_time_and_leaves_nothing_behind() {
    let mut scene = Scene::new(Loopback::new(), LONG);
    let again: Arc<dyn Watcher> = scene.eye.clone();
    assert!(!watch(&mut scene.queue, 3, &again));
    scene.guest.post();
    scene.send(&sample(1).frame(), plain());
    let counters = scene.queue.counters().clone();
    unwatch(&mut scene.queue);
    assert!(!is_watched(&*scene.queue));
    assert_eq!(*scene.queue.counters(), counters);
    unwatch(&mut scene.queue);
    scene.seen();
    scene.guest.post();
    assert_eq!(scene.send(&sample(1).frame(), plain()), TxStatus::Sent);
    assert!(scene.seen().is_empty());
    assert!(watch(&mut scene.queue, 3, &again));
}
