//! A bench around a native device, for tests that are not wasm.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use device_kit::Adapter;
use device_kit::adapter::PortConfig;
use device_kit::platform::{
    Features, Level, LinkStatistics, MemoryError, Platform, RxBuffer, RxFlags, RxPacket, Segment,
    Steering, TransmitResult, TxPacket, TxStatus,
};
use device_kit::window::Window;
use manatee_device::{Device, MAX_PAIRS, MAX_VECTORS};

use crate::bench::{Bench, Transmitted, Workshop};
use memory::GuestMemory;
use port::Port;

pub mod memory;
pub mod port;

/// Calls of `service` after which a device is taken to never end.
const MAX_TURNS: usize = 10_000;

/// From this many calls on, only every so many are followed by a move: a
/// device with a thousand queues takes its time to move.
const MANY_CALLS: u32 = 1000;

/// What is around a native device.
#[derive(Debug)]
pub struct World {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The queue pairs of each port, by number.
    pub ports: Vec<Vec<Port>>,
    /// What the device is offered.
    pub offered: Features,
    /// How each port is steered, as far as it was said.
    pub steering: Vec<Option<Steering>>,
    /// What each port is limited to, as far as it is.
    pub limits: Vec<Option<u32>>,
    /// What passed each port's link.
    pub counted: Vec<LinkStatistics>,
    /// The queue of a port that a test speaks of.
    pub queue: u32,
    /// Vectors since the test last looked.
    pub interrupts: Vec<u16>,
    /// Whether the device is given windows.
    pub with_windows: bool,
    /// Windows that the device has.
    pub windows: usize,
    /// The most that it is given at a time.
    pub window_limit: Option<usize>,
    /// Windows that it was given so far.
    pub laid: usize,
    /// Times that the device said that its configuration changed.
    pub changes: u64,
    /// The last entry that the device announced after a failure.
    pub attempted: Option<u64>,
    /// Times that the device may enter or leave the platform until it fails.
    pub fuse: Option<u32>,
    /// The device fails when it hands over a frame with this number.
    pub poison: Option<u8>,
    /// Lines that the device logged.
    pub log: Vec<(Level, String)>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            memory: GuestMemory::new(),
            ports: Vec::new(),
            offered: Features::empty(),
            steering: Vec::new(),
            limits: Vec::new(),
            counted: Vec::new(),
            queue: 0,
            interrupts: Vec::new(),
            with_windows: false,
            windows: 0,
            window_limit: None,
            laid: 0,
            changes: 0,
            attempted: None,
            fuse: None,
            poison: None,
            log: Vec::new(),
        }
    }
}

impl World {
    /// Fails the device if it is time: as a trap would, in the middle of what
    /// it does.
    fn burn(&mut self) {
        if let Some(left) = self.fuse.as_mut() {
            *left = left.saturating_sub(1);
            assert!(*left > 0, "the fuse is blown");
        }
    }

    /// Returns whether a frame has the number that fails the device.
    fn is_poisoned(&self, frames: &[Segment]) -> bool {
        self.poison.is_some_and(|number| {
            frames.iter().any(|frame| {
                let mut found = [0];
                let read = self.memory.read(frame.address + 14, &mut found);
                read.is_ok() && found[0] == number
            })
        })
    }

    fn port(&mut self, port: u32, queue: u32) -> &mut Port {
        &mut self.ports[port as usize][queue as usize]
    }

    /// Returns what passed a port's link.
    fn link(&mut self, port: u32) -> LinkStatistics {
        let none = LinkStatistics {
            rx_packets: 0,
            rx_bytes: 0,
            rx_dropped: 0,
            tx_packets: 0,
            tx_bytes: 0,
            tx_dropped: 0,
        };
        self.counted.resize(self.ports.len(), none);
        self.counted[port as usize]
    }

    /// Returns the queue of a port that the test speaks of.
    fn spoken_of(&mut self, port: u32) -> &mut Port {
        self.port(port, self.queue)
    }
}

impl Platform for World {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.burn();
        self.memory.read(address, data)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.burn();
        self.memory.write(address, data)
    }

    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        let full = self.window_limit.is_some_and(|most| self.windows >= most);
        if !self.with_windows || full {
            return None;
        }
        let window = self.memory.window(pages, repeats)?;
        self.windows += 1;
        self.laid += 1;
        Some(window)
    }

    fn unmap_window(&mut self, window: Window) {
        GuestMemory::unmap(window);
        self.windows -= 1;
    }

    fn raise(&mut self, vectors: &[u16]) {
        self.burn();
        for (index, vector) in vectors.iter().enumerate() {
            assert!(*vector < MAX_VECTORS, "vector {vector} is beyond the table");
            let again = vectors[..index].contains(vector);
            assert!(!again, "vector {vector} raised twice in one call");
        }
        self.interrupts.extend(vectors);
    }

    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        mut segments: &[Segment],
    ) -> TransmitResult {
        self.burn();
        assert!(!self.is_poisoned(segments), "the fuse is blown");
        let mut result = TransmitResult::default();
        self.port(port, queue).handed_over = packets.last().map(|packet| packet.id);
        for packet in packets {
            assert!(packet.segments > 0, "a packet without segments");
            let (own, later) = segments.split_at(packet.segments.into());
            segments = later;
            let port = &mut self.ports[port as usize][queue as usize];
            let (status, frame) = port.transmit(&self.memory, packet, own);
            result.statuses.push(status);
            let length = frame.len() as u64;
            let is_counted = matches!(
                status,
                TxStatus::Sent | TxStatus::Pending | TxStatus::Dropped
            );
            match frame.first().filter(|_| is_counted && own[0].length >= 6) {
                Some(_) if frame.starts_with(&[0xff; 6]) => {
                    result.broadcast.0 += 1;
                    result.broadcast.1 += length;
                }
                Some(first) if first & 1 == 1 => {
                    result.multicast.0 += 1;
                    result.multicast.1 += length;
                }
                _ => {}
            }
        }
        assert!(segments.is_empty(), "segments that belong to no packet");
        if result.statuses.iter().all(|s| *s == TxStatus::Sent) {
            result.statuses.clear();
        }
        self.burn();
        result
    }

    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        self.burn();
        let taken = self.port(port, queue).post(buffers, segments);
        self.burn();
        taken
    }

    fn cancel_receive(&mut self, port: u32, queue: u32) {
        self.port(port, queue).posted.clear();
    }

    fn cancel_transmit(&mut self, port: u32, queue: u32) {
        let port = self.port(port, queue);
        port.pending.clear();
        port.handed_over = None;
    }

    fn steer(&mut self, port: u32, steering: &Steering) {
        self.burn();
        assert!(
            self.offered.contains(Features::STEERING),
            "nobody offered it"
        );
        let queues = self.ports[port as usize].len();
        let all = steering.table.iter().map(|queue| u32::from(*queue));
        for queue in all.chain([steering.default_queue]) {
            assert!((queue as usize) < queues, "steered to queue {queue}");
        }
        let entries = steering.table.len();
        assert!(entries == 0 || entries.is_power_of_two() && entries <= 1024);
        assert_eq!(steering.key.len(), 40, "bytes of a key");
        self.steering.resize(self.ports.len(), None);
        self.steering[port as usize] = Some(steering.clone());
        self.burn();
    }

    fn limit_rate(&mut self, port: u32, mbps: Option<u32>) {
        self.burn();
        assert!(
            self.offered.contains(Features::RATE_LIMIT),
            "nobody offered it"
        );
        assert!(
            (port as usize) < self.ports.len(),
            "there is no port {port}"
        );
        self.limits.resize(self.ports.len(), None);
        self.limits[port as usize] = mbps;
        self.burn();
    }

    fn statistics(&mut self, port: u32) -> LinkStatistics {
        assert!(
            self.offered.contains(Features::STATISTICS),
            "nobody offered it"
        );
        self.link(port)
    }

    fn changed(&mut self) {
        self.changes += 1;
    }

    fn attempt(&mut self, entry: u64) {
        self.attempted = Some(entry);
    }

    fn log(&mut self, level: Level, message: fmt::Arguments<'_>) {
        self.log.push((level, message.to_string()));
    }
}

/// A native device in its world.
#[derive(Debug)]
pub struct NativeBench {
    /// The device.
    pub device: Device<World>,
    /// Whether calls are followed by a move to a new device.
    pub moves: bool,
    /// What the device moved with the last time, for the next one to rehearse.
    earlier: Option<Vec<u8>>,
    /// Calls so far.
    calls: u32,
}

impl NativeBench {
    fn world(&mut self) -> &mut World {
        self.device.platform()
    }

    /// Lets the device go on until it has no work left, of which there is
    /// some or not.
    ///
    /// # Panics
    ///
    /// If there is no end to it.
    pub fn settle(&mut self, mut more: bool) {
        for _ in 0..MAX_TURNS {
            self.calls += 1;
            let often = self.calls < MANY_CALLS || self.calls.is_multiple_of(MANY_CALLS);
            if self.moves && often {
                self.move_on();
            }
            if !more {
                return;
            }
            more = self.device.service();
        }
        panic!("the device still has work left after {MAX_TURNS} turns");
    }

    /// Saves the device and goes on with a new one that was restored, after it
    /// had rehearsed with an older state.
    ///
    /// # Panics
    ///
    /// If that fails, or the new device's state is another.
    pub fn move_on(&mut self) {
        let state = self.device.save();
        let old = core::mem::replace(&mut self.device, Device::new(World::default()));
        self.device = configured(old.into_platform());
        for state in self.earlier.iter().chain([&state]) {
            let restored = self.device.restore(state);
            restored.expect("the device reads what it wrote");
            let same = self.device.save() == *state;
            assert!(same, "the state changed on its way");
        }
        self.earlier = Some(state);
    }
}

/// Returns a new device with the ports of its world.
///
/// # Panics
///
/// If it refuses them.
pub fn configured(world: World) -> Device<World> {
    let offered = world.offered;
    let queues: Vec<u16> = world.ports.iter().map(|port| port.len() as u16).collect();
    let mut device = Device::new(world);
    let config = |(port, queues): (u32, u16)| PortConfig {
        mac: [2, 0, 0, 0, (port >> 8) as u8, port as u8],
        mtu: 1500,
        link_speed_mbps: 10_000,
        link_up: true,
        queues,
    };
    let configs: Vec<PortConfig> = (0..).zip(queues).map(config).collect();
    let used = device.configure(offered, &configs);
    let used = used.expect("ports that a device can have");
    assert!(offered.contains(used), "{used:?} of {offered:?}");
    device
}

/// Returns so many ports with so many queue pairs each.
pub fn ports(ports: u32, queues: u16) -> Vec<Vec<Port>> {
    let port = || (0..queues).map(|_| Port::default()).collect();
    (0..ports).map(|_| port()).collect()
}

impl Bench for NativeBench {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.device.read_register(0, offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let more = self.device.write_register(0, offset, width, value);
        self.settle(more);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        let read = self.world().memory.read(address, data);
        read.expect("the test reads guest memory");
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        let written = self.world().memory.write(address, data);
        written.expect("the test writes guest memory");
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        core::mem::take(&mut self.world().interrupts)
    }

    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted> {
        core::mem::take(&mut self.world().spoken_of(port).transmitted)
    }

    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]) {
        self.world().spoken_of(port).plan = statuses.iter().copied().collect();
    }

    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]) {
        let queue = self.world().queue;
        let done = self.world().spoken_of(port).finish(statuses);
        let more = self.device.transmitted(port, queue, &done);
        self.settle(more);
    }

    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize {
        let World {
            memory,
            ports,
            queue,
            ..
        } = self.world();
        let queue = *queue;
        let port_state = &mut ports[port as usize][queue as usize];
        let packets: Vec<RxPacket> = frames
            .iter()
            .map_while(|(frame, flags)| port_state.receive(memory, frame, *flags))
            .collect();
        if !packets.is_empty() {
            let more = self.device.received(port, queue, &packets);
            self.settle(more);
        }
        packets.len()
    }

    fn posted_buffers(&mut self, port: u32) -> usize {
        self.world().spoken_of(port).posted.len()
    }

    fn limit_buffers(&mut self, port: u32, most: usize) {
        self.world().spoken_of(port).limit = most;
    }

    fn pending_transmits(&mut self, port: u32) -> usize {
        self.world().spoken_of(port).pending.len()
    }

    fn set_link(&mut self, port: u32, up: bool) {
        self.device.link_changed(port, up);
        self.settle(true);
    }

    fn on_queue(&mut self, queue: u32) {
        self.world().queue = queue;
    }

    fn rate_limit(&mut self, port: u32) -> Option<u32> {
        self.world().limits.get(port as usize).copied().flatten()
    }

    fn count_link(&mut self, port: u32, counted: LinkStatistics) {
        self.world().link(port);
        self.world().counted[port as usize] = counted;
    }

    fn steering(&mut self, port: u32) -> Option<Steering> {
        self.world().steering.get(port as usize).cloned().flatten()
    }

    fn reset(&mut self) {
        self.device.reset();
        let windows = self.world().windows;
        assert_eq!(windows, 0, "windows that the device kept over a reset");
    }

    fn inspect(&mut self) -> String {
        String::from_utf8(self.device.inspect()).expect("text")
    }
}

/// Makes native benches.
#[derive(Clone, Copy, Debug)]
pub struct NativeWorkshop {
    /// Whether devices are given windows.
    pub windows: bool,
    /// Whether a device is saved after its calls, and a new one goes on.
    pub moves: bool,
    /// Queue pairs of each port, as far as the device has so many in all.
    pub queues: u16,
    /// What devices are offered.
    pub offered: Features,
}

impl Default for NativeWorkshop {
    /// Has devices with windows, one queue a port, and no feature.
    fn default() -> Self {
        Self {
            windows: true,
            moves: false,
            queues: 1,
            offered: Features::empty(),
        }
    }
}

impl Workshop for NativeWorkshop {
    type Bench = NativeBench;

    fn bench(&self, ports: u32) -> NativeBench {
        let world = World {
            ports: self::ports(ports, self.queues.min(MAX_PAIRS / ports as u16)),
            offered: self.offered,
            with_windows: self.windows,
            ..World::default()
        };
        NativeBench {
            device: configured(world),
            moves: self.moves,
            earlier: None,
            calls: 0,
        }
    }
}
