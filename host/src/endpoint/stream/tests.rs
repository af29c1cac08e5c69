//! Frames over a socket pair with the test as the peer.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::event::Timespec;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::*;
use crate::endpoint::headers::{IpVersion, Transport};
use crate::endpoint::packet::RxFlags;
use crate::endpoint::testing::{Guest, Sample, kinds, plain, tagged, with_tag};
use crate::endpoint::{RxPacket, TxPacket};
use crate::memory::tests::{NOWHERE, UNREACHABLE, segment};

/// A guest with a stream, and the stream's peer.
struct Scene {
    guest: Guest,
    link: StreamLink,
    queue: Box<dyn Queue>,
    peer: UnixStream,
}

impl Scene {
    fn new() -> Self {
        let (own, peer) = UnixStream::pair().unwrap();
        let mut stream = Stream::new("peer", own.into()).unwrap();
        let mut scene = Self {
            guest: Guest::new(),
            link: stream.link(),
            queue: stream.take_queues().remove(0),
            peer,
        };
        // The queue has taken the socket over.
        assert!(!scene.receive());
        scene
    }

    fn send(&mut self, frame: &[u8], packet: TxPacket) -> TxStatus {
        self.guest.send(&mut *self.queue, frame, packet)
    }

    fn receive(&mut self) -> bool {
        self.queue.receive(&mut self.guest.io())
    }

    /// Returns the packets that the guest has received, with the content of their buffers.
    fn received(&mut self) -> Vec<(RxPacket, Vec<u8>)> {
        let packets = self.guest.received();
        let content = |packet| (packet, self.guest.content(&packet));
        packets.into_iter().map(content).collect()
    }

    /// Reads a frame as the peer.
    fn read(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.peer.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.peer.read_exact(&mut frame).unwrap();
        frame
    }

    fn write(&mut self, frame: &[u8]) {
        self.peer.write_all(&framed(frame)).unwrap();
    }
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn sample(payload: usize) -> Sample {
    Sample::new(IpVersion::V4, Transport::Tcp, payload)
}

#[test]
fn frames_leave_with_their_offloads_carried_out() {
    let mut scene = Scene::new();
    for (version, transport) in kinds() {
        for payload in [1, 230, 1400] {
            let sample = Sample::new(version, transport, payload);
            let packet = sample.checksum_offload();
            assert_eq!(
                scene.send(&sample.without_checksum(), packet),
                TxStatus::Sent
            );
            assert_eq!(scene.read(), sample.frame());
        }
    }
    let frame = sample(100).frame();
    scene.send(&frame, tagged(plain(), 0x6005));
    assert_eq!(scene.read(), with_tag(&frame, 0x6005));
    let sent = &scene.queue.counters().transmit;
    assert_eq!(
        (sent.packets, sent.checksum_offloads, sent.tags_inserted),
        (13, 12, 1)
    );
}

#[test]
fn large_packets_are_cut_into_segments() {
    let mut scene = Scene::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let sample = Sample::new(version, Transport::Tcp, 10_000);
        let packet = sample.segmentation_offload(1448);
        assert_eq!(scene.send(&sample.unsegmented(), packet), TxStatus::Sent);
        for start in (0..10_000).step_by(1448) {
            let length = 1448.min(10_000 - start);
            assert_eq!(scene.read(), sample.segment_of(start, length, 1448));
        }
    }
}

#[test]
fn invalid_packets_are_refused_and_send_nothing() {
    let mut scene = Scene::new();
    let wrong = sample(10).segmentation_offload(4);
    assert_eq!(
        scene.send(&sample(10).unsegmented(), wrong),
        TxStatus::BadHeaders
    );
    assert_eq!(scene.send(&[0; 13], plain()), TxStatus::BadHeaders);
    let lies = [segment(UNREACHABLE, 60)];
    let status = scene.guest.send_cut(&mut *scene.queue, &[], plain(), &lies);
    assert_eq!(status, TxStatus::MemoryFault);
    let frame = sample(1).frame();
    scene.send(&frame, plain());
    assert_eq!(scene.read(), frame);
}

#[test]
fn frames_that_come_in_any_pieces_are_received() {
    let mut scene = Scene::new();
    let frames = [
        sample(0).frame(),
        with_tag(&sample(900).frame(), 0x2007),
        sample(1400).frame(),
    ];
    let bytes = frames.iter().flat_map(|frame| framed(frame));
    let bytes: Vec<_> = bytes.collect();
    for step in [1, 3, 4, 5, 100, 5000] {
        for _ in &frames {
            scene.guest.post();
        }
        for part in bytes.chunks(step) {
            scene.peer.write_all(part).unwrap();
            assert!(!scene.receive());
        }
        let received = scene.received();
        let contents: Vec<_> = received.iter().map(|(_, bytes)| bytes.clone()).collect();
        let untagged = [frames[0].clone(), sample(900).frame(), frames[2].clone()];
        assert_eq!(contents, untagged, "{step}");
        let (tagged, _) = received[1];
        assert_eq!(
            (tagged.vlan_tci, tagged.flags.contains(RxFlags::VLAN)),
            (0x2007, true)
        );
        // Nothing is known about the checksums.
        assert!(
            !tagged
                .flags
                .intersects(RxFlags::L4_CHECKSUM_GOOD | RxFlags::L4_CHECKSUM_BAD)
        );
    }
}

#[test]
fn frames_wait_for_buffers_and_short_ones_are_passed_over() {
    let mut scene = Scene::new();
    scene.write(&[0; 13]);
    scene.write(&[]);
    let frame = sample(500).frame();
    scene.write(&frame);
    assert!(!scene.receive());
    scene.guest.post_cut(&[segment(NOWHERE, 2048)]);
    assert!(!scene.receive());
    scene.guest.post();
    assert!(!scene.receive());
    let received = scene.guest.received();
    assert!(received[0].flags.contains(RxFlags::MEMORY_FAULT));
    assert_eq!(scene.guest.content(&received[1]), frame);
    let counters = &scene.queue.counters().receive;
    assert_eq!(
        (counters.errors, counters.memory_faults, counters.packets),
        (2, 1, 1)
    );
    // One call has a budget.
    for _ in 0..RECEIVE_BUDGET_AND_MORE {
        scene.write(&frame);
        scene.guest.post();
    }
    assert!(scene.receive());
    assert!(!scene.receive());
    assert_eq!(scene.guest.received().len(), RECEIVE_BUDGET_AND_MORE);
}

const RECEIVE_BUDGET_AND_MORE: usize = crate::endpoint::RECEIVE_BUDGET + 3;

#[test]
fn full_socket_drops_packets_and_never_half_of_one() {
    let mut scene = Scene::new();
    let sample = sample(30_000);
    let packet = sample.segmentation_offload(1448);
    let (mut sent, mut dropped) = (0, 0);
    // The kernel decides how much fits; the end may be anywhere in a frame.
    while dropped < 3 {
        match scene.send(&sample.unsegmented(), packet) {
            TxStatus::Sent => sent += 1,
            TxStatus::Dropped => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(scene.queue.counters().transmit.dropped_busy, dropped);
    // A partly sent frame is completed without another packet to send.
    scene.peer.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match scene.peer.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(_) => {
                let before = bytes.len();
                assert!(!scene.receive());
                match scene.peer.read(&mut chunk) {
                    Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                    Err(_) if before == bytes.len() => break,
                    Err(_) => {}
                }
            }
        }
    }
    let mut rest = &bytes[..];
    for _ in 0..sent {
        for start in (0..30_000).step_by(1448) {
            let length = 1448.min(30_000 - start);
            let expected = framed(&sample.segment_of(start, length, 1448));
            let (own, later) = rest.split_at(expected.len());
            assert_eq!(own, expected);
            rest = later;
        }
    }
    assert!(rest.is_empty());
}

/// Returns whether a thread that polls like a device's is woken.
fn woken(epoll: &OwnedFd) -> bool {
    let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
    let now = Timespec::default();
    let (events, _) = epoll::wait(epoll, &mut events, Some(&now)).unwrap();
    !events.is_empty()
}

#[test]
fn a_polling_thread_is_woken_by_frames_by_room_and_by_a_new_socket() {
    let mut scene = Scene::new();
    let poller = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let edges = EventFlags::IN | EventFlags::ET;
    let ready = scene.queue.readiness().unwrap();
    epoll::add(&poller, ready, EventData::new_u64(0), edges).unwrap();
    // Earlier events were seen.
    woken(&poller);
    let frame = sample(1).frame();
    for _ in 0..3 {
        assert!(!woken(&poller));
        scene.guest.post();
        scene.write(&frame);
        assert!(woken(&poller) && !scene.receive());
        assert_eq!(scene.received().len(), 1);
    }
    // A peer that reads causes no wake-up, unless a frame waits for room.
    scene.send(&frame, plain());
    scene.read();
    assert!(!woken(&poller));
    let large = sample(60_000);
    let packet = large.segmentation_offload(1448);
    while scene.send(&large.unsegmented(), packet) == TxStatus::Sent {}
    woken(&poller);
    let mut chunk = vec![0; 64 << 10];
    scene.peer.set_nonblocking(true).unwrap();
    while scene.peer.read(&mut chunk).is_ok() {}
    assert!(woken(&poller));
    assert!(!scene.receive());
    // The peer disconnects, and reconnects.
    let (own, peer) = UnixStream::pair().unwrap();
    scene.peer = peer;
    assert!(woken(&poller) && !scene.receive());
    assert!(!scene.link.is_up());
    scene.link.connect(own.into()).unwrap();
    assert!(woken(&poller) && scene.link.is_up());
    scene.receive();
    scene.write(&frame);
    assert!(woken(&poller));
}

#[test]
fn a_peer_that_disconnects_takes_the_link_down_until_there_is_another() {
    let mut scene = Scene::new();
    let frame = sample(200).frame();
    scene.guest.post();
    // A partly received frame is lost.
    scene.peer.write_all(&framed(&frame)[..100]).unwrap();
    assert!(!scene.receive());
    let (own, peer) = UnixStream::pair().unwrap();
    scene.peer = peer;
    assert_eq!(scene.send(&frame, plain()), TxStatus::Dropped);
    assert!(!scene.link.is_up());
    assert!(lost(&scene.link));
    scene.link.note();
    assert!(!lost(&scene.link) && !scene.receive());
    assert_eq!(scene.send(&frame, plain()), TxStatus::Dropped);
    assert_eq!(scene.queue.counters().transmit.dropped_down, 2);
    scene.link.connect(own.into()).unwrap();
    scene.write(&frame);
    assert!(!scene.receive());
    assert_eq!(scene.received()[0].1, frame);
    assert_eq!(scene.send(&frame, plain()), TxStatus::Sent);
    assert_eq!(scene.read(), frame);
}

#[test]
fn link_goes_down_although_the_queue_does_nothing() {
    let Scene { link, peer, .. } = Scene::new();
    link.note();
    assert!(link.is_up() && !lost(&link));
    (&peer).write_all(&framed(&[0; 60])).unwrap();
    assert!(!lost(&link));
    drop(peer);
    assert!(lost(&link));
    link.note();
    assert!(!link.is_up());
    link.note();
    assert!(!lost(&link));
    let (own, _peer) = UnixStream::pair().unwrap();
    link.connect(own.into()).unwrap();
    assert!(link.is_up() && !lost(&link));
}

fn lost(link: &StreamLink) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(link, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

#[test]
fn a_peer_that_violates_the_framing_is_disconnected() {
    for noise in [u32::MAX, MAX_FRAME as u32 + 1, 0x4745_5420] {
        let mut scene = Scene::new();
        scene.peer.write_all(&noise.to_be_bytes()).unwrap();
        assert!(!scene.receive());
        assert!(!scene.link.is_up());
        assert_eq!(scene.queue.counters().receive.errors, 1);
    }
    // A frame of the maximum length passes.
    let mut scene = Scene::new();
    scene.guest.post();
    let mut peer = scene.peer.try_clone().unwrap();
    sockopt::set_socket_send_buffer_size(&peer, 1 << 20).unwrap();
    let writer = std::thread::spawn(move || peer.write_all(&framed(&[1; MAX_FRAME])).unwrap());
    while scene.guest.done.received.is_empty() {
        scene.receive();
        std::thread::yield_now();
    }
    writer.join().unwrap();
    let packet = scene.guest.received().remove(0);
    assert_eq!(packet.length as usize, MAX_FRAME);
    assert!(packet.flags.contains(RxFlags::TRUNCATED));
}

#[test]
fn descriptors_of_other_kinds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let no_stream: [OwnedFd; 3] = [datagram.into(), pipe.into(), tcp.into()];
    for fd in no_stream {
        let refused = Stream::new("x", fd).unwrap_err();
        assert!(matches!(refused, StreamError::NoUnixStream), "{refused}");
    }
    let unix = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None);
    for fd in [listener.into(), unix.unwrap()] {
        let refused = Stream::new("x", fd).unwrap_err();
        assert!(matches!(refused, StreamError::NotConnected), "{refused}");
    }
}
