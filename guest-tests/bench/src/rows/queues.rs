//! Several queues of an endpoint, each driven by a thread of its own, and the cost of
//! hashing packets.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use manatee::endpoint::{
    Completions, Endpoint, HashTypes, Loopback, Null, Offloads, Queue, QueueIo, QueueSet, Rss,
    RxBuffer, RxQueue, Segment, Steering, Tap, TxBatch, TxPacket, TxStatus,
};
use manatee::memory::GuestMemory;
use manatee_guest_linux::process::output_of;
use manatee_guest_linux::stage::Stage;
use rustix::io::writev;

use crate::ram::Ram;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, alternate};

const NAME: &str = "bench-queues";
/// Packets a call.
const BATCH: usize = 64;
/// Room for a packet in guest memory.
const ROOM: u64 = 2048;
const ROUNDS: usize = 51;
/// Bytes of the header before a frame.
const HEADER: usize = 10;

/// Two threads together, as a multiple of one.
const TOGETHER: Bound = Bound::AtLeast(0.9);
const OF_BARE: Bound = Bound::AtLeast(0.85);
/// Nanoseconds a packet.
const HASH: Bound = Bound::AtMost(15.0);

/// A queue with its guest: packets to send, and buffers to receive.
struct Side {
    queue: Box<dyn Queue>,
    memory: GuestMemory,
    rx: RxQueue,
    done: Completions,
    packets: Vec<TxPacket>,
    segments: Vec<Segment>,
    statuses: Vec<TxStatus>,
}

impl Side {
    /// Creates a side whose packets are all this frame.
    fn new(queue: Box<dyn Queue>, frame: &[u8]) -> Result<Self> {
        let size = 2 * BATCH as u64 * ROOM;
        let ram = Ram::new(size)?;
        let mut memory = GuestMemory::new();
        memory.map(0, size, ram.share()?, 0, true)?;
        let segment = |index: u64| Segment {
            address: index * ROOM,
            length: frame.len() as u32,
        };
        let segments: Vec<_> = (0..BATCH as u64).map(segment).collect();
        for segment in &segments {
            memory.write(segment.address, frame)?;
        }
        let packet = |id| TxPacket {
            id,
            segments: 1,
            l4_offset: 0,
            segment_size: 0,
            vlan_tci: 0,
            offloads: Offloads::empty(),
        };
        Ok(Self {
            queue,
            memory,
            rx: RxQueue::new(),
            done: Completions::default(),
            packets: (0..BATCH as u32).map(packet).collect(),
            segments,
            statuses: Vec::new(),
        })
    }

    /// Sends a batch. All of it leaves.
    fn transmit(&mut self) {
        let batch = TxBatch::new(&self.packets, &self.segments).expect("it adds up");
        let mut io = QueueIo {
            memory: &self.memory,
            rx: &mut self.rx,
            done: &mut self.done,
            woken: &mut QueueSet::default(),
            policy: None,
        };
        self.statuses.clear();
        self.queue.transmit(&mut io, batch, &mut self.statuses);
        let sent = |status: &TxStatus| *status == TxStatus::Sent;
        assert!(self.statuses.iter().all(sent), "a packet did not leave");
    }

    /// Posts buffers for a batch, which then comes back.
    fn round_trip(&mut self) {
        let buffer = |id| RxBuffer { id, segments: 1 };
        let buffers: [_; BATCH] = std::array::from_fn(|id| buffer(id as u32));
        let room: [_; BATCH] = std::array::from_fn(|index| Segment {
            address: (BATCH + index) as u64 * ROOM,
            length: ROOM as u32,
        });
        assert_eq!(self.rx.post(&buffers, &room), Some(BATCH as u32));
        self.transmit();
        assert_eq!(self.done.received.len(), BATCH, "packets that came back");
        self.done.received.clear();
    }
}

/// Returns an IPv4 datagram of this many bytes, with its link header.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let total = (bytes - 14) as u16;
    let header = [
        0x45,
        0,
        (total >> 8) as u8,
        total as u8,
        0,
        0,
        0,
        0,
        64,
        17,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        9,
        9,
        9,
    ];
    frame[14..34].copy_from_slice(&header);
    frame
}

/// Measures nanoseconds per packet of wall-clock time, of all threads together.
fn together<T: Send>(sides: &mut [T], times: usize, act: impl Fn(&mut T) + Sync) -> f64 {
    let count = sides.len();
    let start = Barrier::new(count);
    let times_of = |side: &mut T| {
        start.wait();
        let begun = Instant::now();
        for _ in 0..times {
            act(side);
        }
        (begun, Instant::now())
    };
    let runs: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let threads = sides.iter_mut().map(|side| scope.spawn(|| times_of(side)));
        let threads: Vec<_> = threads.collect();
        let joined = threads.into_iter().map(|it| it.join().expect("a thread"));
        joined.collect()
    });
    let begun = runs.iter().map(|run| run.0).min();
    let ended = runs.iter().map(|run| run.1).max();
    let time = ended.zip(begun).map(|(ended, begun)| ended - begun);
    time.unwrap_or_default().as_nanos() as f64 / (count * times * BATCH) as f64
}

/// Measures the row `queues`.
///
/// # Errors
///
/// If there can be no TAP.
pub fn run(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = vec![null()?];
    for bytes in [64, 1514] {
        figures.push(tap(stage, bytes)?);
    }
    Ok(figures)
}

/// Measures two queues of a null endpoint, to show what threads share.
fn null() -> Result<Figure> {
    let frame = frame(64);
    let sides = |count| {
        let queues = Null::with_queues(count).take_queues();
        let sides = queues.into_iter().map(|queue| Side::new(queue, &frame));
        sides.collect::<Result<Vec<_>>>()
    };
    let (mut one, mut two) = (sides(1)?, sides(2)?);
    let measured = alternate(
        ROUNDS,
        vec![
            Contender::new("one queue", || together(&mut one, 2000, Side::transmit)),
            Contender::new("two queues", || together(&mut two, 2000, Side::transmit)),
        ],
    );
    let ratio = measured[0].over(&measured[1]);
    let what = "null endpoint's queues, a thread each, wall clock";
    let figure = Figure::reported("queues", what, "ns/packet", measured);
    Ok(figure.must("two together of one", ratio, TOGETHER))
}

/// Measures two queues of a TAP against as many bare loops.
fn tap(stage: &Stage, bytes: usize) -> Result<Figure> {
    let mut tap = Tap::with_queues(NAME, 2)?;
    // Without IPv6 the kernel sends nothing here on its own.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1")?;
    let mut up = Command::new(stage.assets.ip());
    up.args(["link", "set", NAME, "up"]);
    output_of(up).context("bringing the TAP up")?;
    let descriptors = tap.descriptors();
    let bare: std::io::Result<Vec<_>> = descriptors.map(|fd| fd.try_clone_to_owned()).collect();
    let frame = frame(bytes);
    let queues = tap.take_queues().into_iter();
    let sides: Result<Vec<_>> = queues.map(|queue| Side::new(queue, &frame)).collect();
    let (mut sides, mut bare) = (sides?, bare?);
    ensure!(sides.len() == 2, "a TAP of {} queues", sides.len());
    let write = |fd: &mut OwnedFd| {
        for _ in 0..BATCH {
            let parts = [IoSlice::new(&[0; HEADER]), IoSlice::new(&frame)];
            writev(&*fd, &parts).expect("a frame that the kernel takes");
        }
    };
    let sides = std::cell::RefCell::new(&mut sides);
    let bare = std::cell::RefCell::new(&mut bare);
    let measured = alternate(
        ROUNDS,
        vec![
            Contender::new("two queues", || {
                together(&mut sides.borrow_mut()[..], 30, Side::transmit)
            }),
            Contender::new("two bare writev", || {
                together(&mut bare.borrow_mut()[..], 30, write)
            }),
            Contender::new("one queue", || {
                together(&mut sides.borrow_mut()[..1], 30, Side::transmit)
            }),
            Contender::new("one bare writev", || {
                together(&mut bare.borrow_mut()[..1], 30, write)
            }),
        ],
    );
    let share = measured[1].over(&measured[0]);
    let what = format!("TAP transmit, {bytes} bytes, a thread a queue, wall clock");
    let figure = Figure::reported("queues", what, "ns/packet", measured);
    Ok(figure.must("of two bare loops", share, OF_BARE))
}

/// Measures the row `hash`.
///
/// # Errors
///
/// If there is no memory.
pub fn run_hash() -> Result<Vec<Figure>> {
    let frame = frame(64);
    let side = |types: Option<HashTypes>| {
        let mut endpoint = Loopback::new();
        if let Some(hash_types) = types {
            let steering = Steering {
                hash_types,
                key: std::array::from_fn(|index| index as u8 * 37),
                table: vec![0; 128],
                default_queue: 0,
            };
            endpoint.steer(Some(Arc::new(Rss::new(&steering, true))));
        }
        Side::new(endpoint.take_queues().remove(0), &frame)
    };
    let (mut without, mut with) = (side(None)?, side(Some(HashTypes::all()))?);
    let measured = alternate(
        301,
        vec![
            Contender::timed("without", 200, || without.round_trip()).per(BATCH as f64),
            Contender::timed("with RSS and hash", 200, || with.round_trip()).per(BATCH as f64),
        ],
    );
    let more = measured[1].median - measured[0].median;
    let what = "loopback endpoint, IPv4 with ports, 64 bytes";
    let figure = Figure::reported("hash", what, "ns/packet", measured);
    Ok(vec![figure.must("ns a packet more", more, HASH)])
}
