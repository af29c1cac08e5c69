//! The model of a device's host.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use device_kit::platform::{
    Delayed, HandedOver, Level, RxBuffer, RxFlags, RxPacket, Segment, TransmitResult, TxPacket,
    TxStatus,
};

use crate::contract::{Features, LinkStatistics, Steering};
use crate::memory::Memory;
use crate::port::{Port, Queue};

/// The most vectors that an MSI-X table has.
const MAX_VECTORS: u16 = 2048;
/// The most lines of the device's log that are kept, the newest ones.
const MAX_LOG: usize = 1000;
/// The most offences that are kept.
const MAX_OFFENCES: usize = 100;
/// The most interrupts that are kept until a test takes them, so that a device that raises
/// them endlessly does not exhaust memory.
const MAX_INTERRUPTS: usize = 1 << 16;

/// The model of a device's host.
#[derive(Debug)]
pub struct World {
    /// Guest memory.
    pub memory: Memory,
    /// The ports, by number.
    pub ports: Vec<Port>,
    /// Features that the device was offered in `configure`: use of another one is an
    /// offence.
    pub offered: Features,
    /// Vectors of the device's MSI-X table.
    pub vectors: u16,
    /// Whether the device may have windows.
    pub with_windows: bool,
    /// The most windows that it may have at a time.
    pub window_limit: Option<usize>,
    /// Windows that it has.
    pub windows: usize,
    /// Windows that were mapped so far.
    pub laid: usize,
    /// Number of changes of the configuration that it noted.
    pub changes: u64,
    /// The last work queue element that it announced after a failure.
    pub attempted: Option<u64>,
    /// How many times it may enter or leave the platform until it fails.
    pub fuse: Option<u32>,
    /// What it fails on each time.
    pub poison: Option<Poison>,
    /// What the device did, until a test takes it.
    pub done: Done,
}

/// A call that a device fails on each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// Handing over a frame with this number after its addresses and type.
    Frame(u8),
    /// Setting a limit of this many Mbit/s.
    Limit(u32),
}

/// What a device did, until a test takes it: see [`World`]'s methods.
#[derive(Debug, Default)]
pub struct Done {
    interrupts: Vec<u16>,
    delayed: Vec<Delayed>,
    log: VecDeque<(Level, String)>,
    offences: Vec<String>,
    /// The frame that is being read; keeps its allocation.
    frame: Vec<u8>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            memory: Memory::default(),
            ports: Vec::new(),
            offered: Features::empty(),
            vectors: MAX_VECTORS,
            with_windows: false,
            window_limit: None,
            windows: 0,
            laid: 0,
            changes: 0,
            attempted: None,
            fuse: None,
            poison: None,
            done: Done::default(),
        }
    }
}

impl World {
    /// Creates a world with this many ports, of this many queue pairs each.
    pub fn with_ports(ports: u32, queues: u16) -> Self {
        Self {
            ports: (0..ports).map(|_| Port::new(queues)).collect(),
            ..Self::default()
        }
    }

    /// Begins a new world with these ports and features, in the memory of this one.
    #[cfg(target_family = "wasm")]
    pub fn start(&mut self, ports: u32, queues: u16, offered: Features) {
        self.memory.clear();
        self.ports.clear();
        self.ports.resize_with(ports as usize, || Port::new(queues));
        self.offered = offered;
        self.done = Done::default();
    }

    /// Returns a port.
    ///
    /// # Panics
    ///
    /// If there is no such port.
    pub fn port(&mut self, port: u32) -> &mut Port {
        let count = self.ports.len();
        let found = self.ports.get_mut(port as usize);
        found.unwrap_or_else(|| panic!("port {port} of {count}"))
    }

    /// Returns a queue pair of a port.
    ///
    /// # Panics
    ///
    /// If there is no such port or queue.
    pub fn queue(&mut self, port: u32, queue: u32) -> &mut Queue {
        self.port(port).queue(queue)
    }

    /// Records an offence.
    pub fn offend(&mut self, offence: impl Into<String>) {
        if self.done.offences.len() < MAX_OFFENCES {
            self.done.offences.push(offence.into());
        }
    }

    /// Returns the offences since the last call.
    pub fn take_offences(&mut self) -> Vec<String> {
        core::mem::take(&mut self.done.offences)
    }

    /// Returns whether the device was offered a feature; records an offence if not.
    pub fn check_offered(&mut self, feature: Features, name: &str) -> bool {
        let is_offered = self.offered.contains(feature);
        if !is_offered {
            self.offend(format!(
                "used the feature `{name}`, which it was not offered"
            ));
        }
        is_offered
    }

    /// Takes a line of the device's log.
    pub fn log(&mut self, level: Level, line: String) {
        if self.done.log.len() == MAX_LOG {
            self.done.log.pop_front();
        }
        self.done.log.push_back((level, line));
    }

    /// Returns the lines since the last call.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        self.done.log.drain(..).collect()
    }

    /// Takes vectors that the device raises.
    pub fn raise(&mut self, vectors: &[u16]) {
        for (index, vector) in vectors.iter().enumerate() {
            let is_known = vectors[..index].contains(vector);
            if self.check_vector(*vector, is_known) && self.done.interrupts.len() < MAX_INTERRUPTS {
                self.done.interrupts.push(*vector);
            }
        }
    }

    /// Takes vectors that the device raises after a delay.
    pub fn raise_within(&mut self, vectors: &[Delayed]) {
        if !self.check_offered(Features::MODERATION, "moderation") {
            return;
        }
        for (index, delayed) in vectors.iter().enumerate() {
            let mut before = vectors[..index].iter();
            let is_known = before.any(|other| other.vector == delayed.vector);
            if self.check_vector(delayed.vector, is_known)
                && self.done.delayed.len() < MAX_INTERRUPTS
            {
                self.done.delayed.push(*delayed);
            }
        }
    }

    /// Returns whether a vector exists; records an offence if not, or if it was raised in the
    /// same call already.
    fn check_vector(&mut self, vector: u16, is_known: bool) -> bool {
        if is_known {
            self.offend(format!("raised vector {vector} twice in one call"));
        }
        // A host ignores it; no correct device does it.
        let exists = vector < self.vectors;
        if !exists {
            let all = self.vectors;
            self.offend(format!("raised vector {vector} of a table with {all}"));
        }
        exists
    }

    /// Returns the vectors since the last call, in order.
    pub fn take_interrupts(&mut self) -> Vec<u16> {
        // Keeps its allocation.
        self.done.interrupts.drain(..).collect()
    }

    /// Returns the vectors that were raised after a delay since the last call, in order.
    pub fn take_delayed(&mut self) -> Vec<Delayed> {
        self.done.delayed.drain(..).collect()
    }

    /// Returns whether a queue exists; records an offence if not.
    fn check_queue(&mut self, port: u32, queue: u32, what: &str) -> bool {
        let found = self.ports.get(port as usize);
        let exists = found.is_some_and(|port| queue < port.queues().into());
        if !exists {
            self.offend(format!(
                "{what} port {port}, queue {queue}, which does not exist"
            ));
        }
        exists
    }

    /// Takes packets that the device transmits.
    pub fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        let mut result = TransmitResult::default();
        if !self.check_queue(port, queue, "transmitted on") {
            return result;
        }
        if !adds_up(packets.iter().map(|packet| packet.segments), segments) {
            self.offend("transmitted packets that do not add up to their segments");
            return result;
        }
        let queue = self.ports[port as usize].queue(queue);
        if let Some(last) = packets.last() {
            queue.note_handed_over(last.id);
        }
        let mut rest = segments;
        for (index, packet) in packets.iter().enumerate() {
            let (own, later) = rest.split_at(packet.segments.into());
            rest = later;
            let status = if self.memory.gather(own, &mut self.done.frame) {
                queue.take_packet(packet, &self.done.frame)
            } else {
                TxStatus::MemoryFault
            };
            if own[0].length >= 6 {
                count_group(&mut result, status, &self.done.frame);
            }
            if status != TxStatus::Sent && result.statuses.is_empty() {
                result.statuses.resize(index, TxStatus::Sent);
                result.statuses.reserve(packets.len() - index);
            }
            if status != TxStatus::Sent || !result.statuses.is_empty() {
                result.statuses.push(status);
            }
        }
        result
    }

    /// Gives up the pending transmits of a queue.
    pub fn cancel_transmit(&mut self, port: u32, queue: u32) {
        if self.check_queue(port, queue, "gave up transmits of") {
            self.queue(port, queue).cancel_transmit();
        }
    }

    /// Takes buffers that the device posts. Returns how many.
    pub fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        if !self.check_queue(port, queue, "posted to") {
            return 0;
        }
        if !adds_up(buffers.iter().map(|buffer| buffer.segments), segments) {
            self.offend("posted buffers that do not add up to their segments");
            return 0;
        }
        self.queue(port, queue).post(buffers, segments)
    }

    /// Takes back the buffers of a queue.
    pub fn cancel_receive(&mut self, port: u32, queue: u32) {
        if self.check_queue(port, queue, "took back buffers of") {
            self.queue(port, queue).cancel_receive();
        }
    }

    /// Sets how the packets of a port find their queue.
    pub fn steer(&mut self, port: u32, steering: Steering) {
        if !self.check_offered(Features::STEERING, "steering") {
            return;
        }
        let queues = steering.table.iter().map(|queue| u32::from(*queue));
        for queue in queues.chain([steering.default_queue]) {
            if !self.check_queue(port, queue, "steered to") {
                return;
            }
        }
        let length = steering.table.len();
        if steering.key.len() != 40 || length > 1024 || (length > 0 && !length.is_power_of_two()) {
            let key = steering.key.len();
            self.offend(format!(
                "steered by a key of {key} bytes and a table of {length} queues"
            ));
            return;
        }
        self.port(port).steer(steering);
    }

    /// Limits what a port sends.
    pub fn limit_rate(&mut self, port: u32, mbps: Option<u32>) {
        let is_offered = self.check_offered(Features::RATE_LIMIT, "rate-limit");
        if is_offered && self.check_queue(port, 0, "limited") {
            self.port(port).rate_limit = mbps;
        }
    }

    /// Returns the counters of a port's link; zeros for a port that does not exist.
    pub fn statistics(&mut self, port: u32) -> LinkStatistics {
        let is_offered = self.check_offered(Features::STATISTICS, "statistics");
        if is_offered && self.check_queue(port, 0, "read the counters of") {
            return self.port(port).counted;
        }
        Port::new(0).counted
    }

    /// Writes arriving frames to the next buffers of a queue, as many as there are.
    /// Returns the arguments for the device's `received`.
    ///
    /// # Panics
    ///
    /// If there is no such port or queue.
    pub fn arrive(&mut self, port: u32, queue: u32, frames: &[(&[u8], RxFlags)]) -> Vec<RxPacket> {
        let Self { memory, ports, .. } = self;
        let queue = ports[port as usize].queue(queue);
        let filled = frames
            .iter()
            .map_while(|(frame, flags)| queue.receive(memory, frame, *flags));
        filled.collect()
    }

    /// Takes back what a failed device had posted and handed over. Returns the last
    /// packet of each queue.
    pub fn take_back(&mut self) -> Vec<HandedOver> {
        let mut last = Vec::new();
        for (number, port) in (0..).zip(&mut self.ports) {
            for index in 0..port.queues().into() {
                let queue = port.queue(index);
                last.extend(queue.handed_over().map(|id| HandedOver {
                    port: number,
                    queue: index,
                    id,
                }));
                queue.cancel_receive();
                queue.cancel_transmit();
            }
        }
        last
    }
}

/// Returns whether items have at least one segment each, and `segments` in all.
fn adds_up(mut counts: impl Iterator<Item = u16> + Clone, segments: &[Segment]) -> bool {
    let claimed: usize = counts.clone().map(usize::from).sum();
    claimed == segments.len() && counts.all(|count| count > 0)
}

/// Counts a packet to a group address.
fn count_group(result: &mut TransmitResult, status: TxStatus, frame: &[u8]) {
    let is_counted = matches!(
        status,
        TxStatus::Sent | TxStatus::Pending | TxStatus::Dropped
    );
    let Some((destination, _)) = frame.split_first_chunk::<6>().filter(|_| is_counted) else {
        return;
    };
    let counted = match destination {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => &mut result.broadcast,
        [first, ..] if first & 1 == 1 => &mut result.multicast,
        _ => return,
    };
    counted.0 += 1;
    counted.1 += frame.len() as u64;
}

#[cfg(test)]
mod tests;
