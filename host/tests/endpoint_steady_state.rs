//! Endpoints in steady state: they allocate nothing; and how fast they are.
//!
//! For the figures: `cargo test --release -p manatee --test endpoint_steady_state -- --ignored --nocapture`

use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use manatee::endpoint::RxBuffer;
use manatee::endpoint::{
    Completions, Endpoint, Loopback, Null, Offloads, Queue, QueueIo, QueueSet, RxQueue, Segment,
    Tap, TxBatch, TxPacket, TxStatus,
};
use manatee::memory::GuestMemory;
use rustix::thread::UnshareFlags;

/// Packets in one batch.
const BATCH: usize = 64;
/// Room for a packet or a buffer in guest memory.
const ROOM: u64 = 65536;
const BUFFERS: u64 = BATCH as u64 * ROOM;

/// A guest with a batch of packets, and buffers for as many.
struct Guest {
    memory: GuestMemory,
    rx: RxQueue,
    done: Completions,
    status: Vec<TxStatus>,
    packets: Vec<TxPacket>,
    segments: Vec<Segment>,
    buffers: Vec<RxBuffer>,
    room: Vec<Segment>,
}

impl Guest {
    /// Returns a guest whose packets are all `frame`, each in two segments.
    fn new(frame: &[u8], packet: TxPacket) -> Self {
        let size = 2 * BUFFERS;
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
        file.set_len(size).unwrap();
        let mut memory = GuestMemory::new();
        memory.map(0, size, file, 0, true).unwrap();
        let mut segments = Vec::new();
        for index in 0..BATCH as u64 {
            let address = index * ROOM;
            memory.write(address, frame).unwrap();
            segments.push(Segment {
                address,
                length: 14,
            });
            segments.push(Segment {
                address: address + 14,
                length: frame.len() as u32 - 14,
            });
        }
        let room = |index: u64| Segment {
            address: BUFFERS + index * ROOM,
            length: 2048,
        };
        Self {
            memory,
            rx: RxQueue::new(),
            done: Completions::default(),
            status: Vec::new(),
            packets: vec![packet; BATCH],
            segments,
            buffers: (0..BATCH as u32)
                .map(|id| RxBuffer { id, segments: 1 })
                .collect(),
            room: (0..BATCH as u64).map(room).collect(),
        }
    }

    fn transmit(&mut self, queue: &mut dyn Queue) {
        self.status.clear();
        let batch = TxBatch::new(&self.packets, &self.segments).unwrap();
        let mut io = QueueIo {
            memory: &self.memory,
            rx: &mut self.rx,
            done: &mut self.done,
            woken: &mut QueueSet::default(),
            policy: None,
        };
        queue.transmit(&mut io, batch, &mut self.status);
        let sent = self.status.iter().filter(|s| **s == TxStatus::Sent);
        assert_eq!(sent.count(), BATCH);
    }

    fn post(&mut self) {
        let room = BATCH - self.rx.len();
        self.rx.post(&self.buffers[..room], &self.room[..room]);
    }

    /// Receives all packets that have arrived. Returns their number.
    fn receive(&mut self, queue: &mut dyn Queue) -> usize {
        self.done.received.clear();
        let mut io = QueueIo {
            memory: &self.memory,
            rx: &mut self.rx,
            done: &mut self.done,
            woken: &mut QueueSet::default(),
            policy: None,
        };
        queue.receive(&mut io);
        self.done.received.len()
    }
}

/// Returns an IPv4 packet that the kernel drops without an answer.
fn frame(tcp: bool, payload: usize) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 9, 9, 9], 64);
    let mut frame = Vec::new();
    let payload = vec![0; payload];
    if tcp {
        builder.tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap();
    } else {
        builder.udp(1, 2).write(&mut frame, &payload).unwrap();
    }
    frame
}

fn packet(offloads: Offloads) -> TxPacket {
    TxPacket {
        id: 0,
        segments: 2,
        l4_offset: 0,
        segment_size: 1448,
        vlan_tci: 5,
        offloads,
    }
}

/// Returns guests that send packets without offloads, with a checksum to fill in and a tag, and for
/// segmentation.
fn guests() -> [(&'static str, Guest); 3] {
    let sum = Offloads::UDP_CHECKSUM | Offloads::INSERT_VLAN;
    let cut = Offloads::TCP_SEGMENTATION;
    let short = frame(false, 1400);
    [
        ("1442 bytes", Guest::new(&short, packet(Offloads::empty()))),
        (
            "1442 bytes, checksum and tag",
            Guest::new(&short, packet(sum)),
        ),
        (
            "60 kB, to be segmented",
            Guest::new(&frame(true, 60_000), packet(cut)),
        ),
    ]
}

/// Runs a test in a network namespace of its own, if that is permitted.
fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    let isolated = || {
        // The deprecated function is the safe one; its successor is unsafe because of a flag
        // that is not used here.
        #[expect(deprecated)]
        match rustix::thread::unshare(UnshareFlags::NEWNET) {
            Ok(()) => test(),
            Err(error) => {
                let line = format!("skipped {name}: no network namespace ({error}); run as root\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    };
    let outcome = std::thread::scope(|scope| scope.spawn(isolated).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("iproute2").success(), "ip {arguments}");
}

/// Returns a TAP, its only queue, and a socket whose datagrams arrive there.
fn tap_and_socket() -> (Tap, Box<dyn Queue>, UdpSocket) {
    let mut tap = Tap::with_queues("tap-test", 1).unwrap();
    let queue = tap.take_queues().remove(0);
    ip("link set tap-test address 02:00:00:00:00:02 up");
    ip("address add 10.0.0.2/24 dev tap-test");
    ip("neighbour add 10.0.0.1 lladdr 02:00:00:00:00:01 dev tap-test nud permanent");
    let socket = UdpSocket::bind("10.0.0.2:2000").unwrap();
    socket.connect("10.0.0.1:1000").unwrap();
    (tap, queue, socket)
}

/// Sends datagrams to the TAP, and receives them. Returns the number of
/// allocations.
fn receive_batch(guest: &mut Guest, tap: &mut dyn Queue, socket: &UdpSocket) -> u64 {
    for _ in 0..BATCH {
        socket.send(&[7; 1400]).unwrap();
    }
    let (mut allocations, mut count) = (0, 0);
    let end = Instant::now() + Duration::from_secs(10);
    while count < BATCH && Instant::now() < end {
        let counted = measure(|| {
            guest.post();
            count += guest.receive(tap);
        });
        allocations += counted.count_total;
    }
    assert!(count >= BATCH, "datagrams did not arrive");
    allocations
}

#[test]
fn loopback_and_null_allocate_nothing() {
    let endpoints: [Box<dyn Endpoint>; 2] = [Box::new(Loopback::new()), Box::new(Null::new())];
    for mut endpoint in endpoints {
        let mut queue = endpoint.take_queues().remove(0);
        for (what, mut guest) in guests().into_iter().take(2) {
            let mut round = || {
                guest.done.received.clear();
                guest.post();
                guest.transmit(&mut *queue);
            };
            round();
            let counted = measure(&mut round).count_total;
            assert_eq!(counted, 0, "{}: {what}", endpoint.name());
        }
    }
}

#[test]
fn a_tap_allocates_nothing() {
    in_namespace("a_tap_allocates_nothing", || {
        let (_endpoint, mut tap, socket) = tap_and_socket();
        for (what, mut guest) in guests() {
            guest.transmit(&mut *tap);
            let counted = measure(|| guest.transmit(&mut *tap)).count_total;
            assert_eq!(counted, 0, "transmitting: {what}");
        }
        let mut guest = Guest::new(&frame(false, 0), packet(Offloads::empty()));
        receive_batch(&mut guest, &mut *tap, &socket);
        let counted = receive_batch(&mut guest, &mut *tap, &socket);
        assert_eq!(counted, 0, "receiving");
        assert!(tap.counters().receive.checksums_completed > 0);
    });
}
