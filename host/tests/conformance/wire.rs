//! The far end of a port: an endpoint that a test controls.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use device_kit::platform;
use manatee::endpoint::{
    Queue, QueueIo, Received, RxFlags, RxQueue, Segment, TxBatch, TxCompletion, TxPacket, TxStatus,
};
use manatee::memory::{Access, GuestMemory};
use manatee_conformance::bench::{Transmitted, untag};
use manatee_conformance::world;
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

/// The longest that the host may take to poll a port with packets.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state of a wire, shared by the test and the endpoint.
#[derive(Default)]
struct Lying {
    /// Transmitted packets, and planned results. The host keeps the buffers.
    queue: world::Queue,
    /// Completions of pending packets that were not reported to the device yet.
    ended: Vec<TxCompletion>,
    /// Frames to deliver, with their flags.
    arriving: VecDeque<(Vec<u8>, RxFlags)>,
    /// The number of frames for which there was a buffer.
    arrived: usize,
    /// The limit of posted buffers.
    most_buffers: usize,
    /// How often the host polled, and was asked to.
    looked: u64,
    asked: u64,
}

/// A wire: the test holds one clone and the device's endpoint another.
#[derive(Clone)]
pub struct Wire {
    lying: Arc<Mutex<Lying>>,
    looked: Arc<Condvar>,
    ready: Arc<OwnedFd>,
}

impl Wire {
    /// Returns an idle wire.
    pub fn new() -> Self {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
        let lying = Lying {
            most_buffers: RxQueue::MAX_BUFFERS,
            ..Lying::default()
        };
        Self {
            lying: Arc::new(Mutex::new(lying)),
            looked: Arc::default(),
            ready: Arc::new(ready),
        }
    }

    /// Returns the packets since the last call.
    pub fn take_transmitted(&self) -> Vec<Transmitted> {
        self.lying.lock().queue.take_transmitted()
    }

    /// Sets the results of the next packets.
    pub fn plan(&self, statuses: &[platform::TxStatus]) {
        self.lying.lock().queue.plan_transmits(statuses);
    }

    /// Returns the number of pending packets.
    pub fn pending(&self) -> usize {
        self.lying.lock().queue.pending_transmits()
    }

    /// Completes the oldest pending packets.
    pub fn finish(&self, statuses: &[platform::TxStatus]) {
        let mut lying = self.lying.lock();
        let ended = lying.queue.finish_transmits(statuses);
        assert_eq!(ended.len(), statuses.len(), "pending transmits to finish");
        lying.ended.extend(ended.iter().map(|ended| TxCompletion {
            id: ended.id,
            status: host_status(ended.status),
        }));
        drop(lying);
        self.look();
    }

    /// Delivers frames together. Returns for how many there was a buffer; the others
    /// are lost.
    pub fn arrive(&self, frames: &[(&[u8], platform::RxFlags)]) -> usize {
        let mut lying = self.lying.lock();
        lying.arrived = 0;
        let frames = frames
            .iter()
            .map(|(frame, flags)| (frame.to_vec(), host_flags(*flags)));
        lying.arriving.extend(frames);
        drop(lying);
        self.look();
        let mut lying = self.lying.lock();
        lying.arriving.clear();
        lying.arrived
    }

    /// Sets the most buffers that the port takes from now on.
    pub fn limit_buffers(&self, most: usize) {
        self.lying.lock().most_buffers = most;
        self.look();
    }

    /// Makes the host poll the port, and waits until it did.
    fn look(&self) {
        let mut lying = self.lying.lock();
        lying.asked += 1;
        let asked = lying.asked;
        rustix::io::write(&*self.ready, &1u64.to_ne_bytes()).expect("eventfd");
        while lying.looked < asked {
            let waited = self.looked.wait_for(&mut lying, PATIENCE);
            assert!(!waited.timed_out(), "the host did not poll its port");
        }
    }
}

impl Lying {
    fn transmit(&mut self, memory: &GuestMemory, packet: &TxPacket, own: &[Segment]) -> TxStatus {
        let mut frame = Vec::new();
        for segment in own {
            let length = segment.length.into();
            let whole = memory.check(segment.address, length, Access::Read);
            if whole.is_err() {
                return TxStatus::MemoryFault;
            }
            let from = frame.len();
            frame.resize(from + segment.length as usize, 0);
            if memory.read(segment.address, &mut frame[from..]).is_err() {
                return TxStatus::MemoryFault;
            }
        }
        let packet = platform::TxPacket {
            id: packet.id,
            segments: packet.segments,
            l4_offset: packet.l4_offset,
            segment_size: packet.segment_size,
            vlan_tci: packet.vlan_tci,
            offloads: device_offloads(packet.offloads),
        };
        host_status(self.queue.take_packet(&packet, &frame))
    }

    /// Writes the next frame to the next buffer. Returns false if either is missing.
    fn deliver(&mut self, io: &mut QueueIo<'_>) -> bool {
        let Some(buffer) = io.rx.front() else {
            return false;
        };
        let Some((frame, mut flags)) = self.arriving.pop_front() else {
            return false;
        };
        let (frame, tag) = untag(&frame);
        if tag.is_some() {
            flags |= RxFlags::VLAN;
        }
        let mut received = Received {
            length: frame.len() as u32,
            flags,
            vlan_tci: tag.unwrap_or_default(),
            hash: 0,
        };
        let mut rest = &frame[..];
        for segment in buffer.segments() {
            let (now, later) = rest.split_at(rest.len().min(segment.length as usize));
            if io.memory.write(segment.address, now).is_err() {
                received = Received {
                    length: 0,
                    flags: RxFlags::MEMORY_FAULT,
                    vlan_tci: 0,
                    hash: 0,
                };
                rest = &[];
                break;
            }
            rest = later;
        }
        if !rest.is_empty() {
            received.flags |= RxFlags::TRUNCATED;
        }
        buffer.complete(received, io.done);
        self.arrived += 1;
        true
    }
}

impl Queue for Wire {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        let mut lying = self.lying.lock();
        status.extend(
            batch
                .iter()
                .map(|(packet, own)| lying.transmit(io.memory, packet, own)),
        );
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        let mut lying = self.lying.lock();
        io.rx.limit(lying.most_buffers);
        io.done.transmitted.append(&mut lying.ended);
        while lying.deliver(io) {}
        lying.looked = lying.asked;
        self.looked.notify_all();
        false
    }

    fn cancel_transmit(&mut self) {
        let mut lying = self.lying.lock();
        lying.queue.cancel_transmit();
        lying.ended.clear();
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }
}

fn host_status(status: platform::TxStatus) -> TxStatus {
    match status {
        platform::TxStatus::Sent => TxStatus::Sent,
        platform::TxStatus::Pending => TxStatus::Pending,
        platform::TxStatus::Dropped => TxStatus::Dropped,
        platform::TxStatus::MemoryFault => TxStatus::MemoryFault,
        platform::TxStatus::TooLong => TxStatus::TooLong,
        platform::TxStatus::BadHeaders => TxStatus::BadHeaders,
    }
}

/// Converts flags to the host's own type.
fn host_flags(flags: platform::RxFlags) -> RxFlags {
    let pairs = [
        (platform::RxFlags::TRUNCATED, RxFlags::TRUNCATED),
        (platform::RxFlags::MEMORY_FAULT, RxFlags::MEMORY_FAULT),
        (platform::RxFlags::IPV4, RxFlags::IPV4),
        (platform::RxFlags::IPV6, RxFlags::IPV6),
        (platform::RxFlags::TCP, RxFlags::TCP),
        (platform::RxFlags::UDP, RxFlags::UDP),
        (
            platform::RxFlags::IP_CHECKSUM_GOOD,
            RxFlags::IP_CHECKSUM_GOOD,
        ),
        (platform::RxFlags::IP_CHECKSUM_BAD, RxFlags::IP_CHECKSUM_BAD),
        (
            platform::RxFlags::L4_CHECKSUM_GOOD,
            RxFlags::L4_CHECKSUM_GOOD,
        ),
        (platform::RxFlags::L4_CHECKSUM_BAD, RxFlags::L4_CHECKSUM_BAD),
        (platform::RxFlags::MULTICAST, RxFlags::MULTICAST),
        (platform::RxFlags::BROADCAST, RxFlags::BROADCAST),
        (platform::RxFlags::VLAN, RxFlags::VLAN),
    ];
    let given = pairs.iter().filter(|(theirs, _)| flags.contains(*theirs));
    given.fold(RxFlags::empty(), |all, (_, ours)| all | *ours)
}

/// Converts offloads to the device's own type.
fn device_offloads(offloads: manatee::endpoint::Offloads) -> platform::Offloads {
    use manatee::endpoint::Offloads;
    let pairs = [
        (Offloads::IPV4, platform::Offloads::IPV4),
        (Offloads::IPV6, platform::Offloads::IPV6),
        (Offloads::IP_CHECKSUM, platform::Offloads::IP_CHECKSUM),
        (Offloads::TCP_CHECKSUM, platform::Offloads::TCP_CHECKSUM),
        (Offloads::UDP_CHECKSUM, platform::Offloads::UDP_CHECKSUM),
        (
            Offloads::TCP_SEGMENTATION,
            platform::Offloads::TCP_SEGMENTATION,
        ),
        (Offloads::INSERT_VLAN, platform::Offloads::INSERT_VLAN),
    ];
    let given = pairs
        .iter()
        .filter(|(theirs, _)| offloads.contains(*theirs));
    given.fold(platform::Offloads::empty(), |all, (_, ours)| all | *ours)
}
