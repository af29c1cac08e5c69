//! A bench around a native device, for tests that are not wasm.

use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::NonNull;

use device_kit::Adapter;
use device_kit::adapter::PortConfig;
use device_kit::platform::{Features, LinkStatistics, RxFlags, TxStatus};
use device_kit::window::Window;
use manatee_device::{Device, MAX_PAIRS, MAX_VECTORS};

use crate::bench::{Bench, Steering, Transmitted, Workshop};
pub use manatee_world::{Poison, World};
use manatee_world::{Port, Queue};

/// Calls of `service` after which a device is considered to loop endlessly.
const MAX_TURNS: usize = 10_000;

/// Number of calls from which on only some are followed by a move, because moving a
/// device with a thousand queues is slow.
const MANY_CALLS: u32 = 1000;

/// A native device in its world.
#[derive(Debug)]
pub struct NativeBench {
    /// The device.
    pub device: Device<World>,
    /// Whether calls are followed by a move to a new device.
    pub moves: bool,
    /// The state of the last move, which the next device rehearses with.
    earlier: Option<Vec<u8>>,
    /// Calls so far.
    calls: u32,
    /// The selected queue of a port.
    queue: u32,
}

impl NativeBench {
    fn world(&mut self) -> &mut World {
        self.device.platform()
    }

    /// Returns the selected queue of a port.
    fn queue(&mut self, port: u32) -> &mut Queue {
        let queue = self.queue;
        self.world().queue(port, queue)
    }

    /// Services the device until it has no work left; `more` says whether there is any.
    ///
    /// # Panics
    ///
    /// If the work does not end.
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

    /// Notifies the device that windows lost their memory, or have it again.
    fn windows_changed(&mut self, bases: &[NonNull<u8>], present: bool) {
        if !bases.is_empty() {
            let is_named = |window: &Window| bases.contains(&window.base());
            self.device.windows_changed(is_named, present);
        }
    }

    /// Saves the device and continues with a new one, which rehearsed with an older
    /// state and was then restored.
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
pub fn configured(mut world: World) -> Device<World> {
    let queues: Vec<u16> = world.ports.iter().map(Port::queues).collect();
    let offered = world.offered;
    world.vectors = MAX_VECTORS;
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

impl Bench for NativeBench {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.device.read_register(0, offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let more = self.device.write_register(0, offset, width, value);
        self.settle(more);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        let read = self.world().memory.peek(address, data);
        read.expect("the test reads guest memory");
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        let written = self.world().memory.poke(address, data);
        written.expect("the test writes guest memory");
    }

    fn revoke_memory(&mut self, address: u64, length: u64) {
        let lost = self.world().memory.revoke(address, length);
        self.windows_changed(&lost, false);
    }

    fn give_memory_back(&mut self) {
        let back = self.world().memory.give_back();
        self.windows_changed(&back, true);
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.world().take_interrupts()
    }

    fn take_delayed(&mut self) -> Vec<(u16, u32)> {
        let delayed = self.world().take_delayed().into_iter();
        delayed.map(|it| (it.vector, it.microseconds)).collect()
    }

    fn on_queue(&mut self, queue: u32) {
        self.queue = queue;
    }

    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted> {
        self.queue(port).take_transmitted()
    }

    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]) {
        self.queue(port).plan_transmits(statuses);
    }

    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]) {
        let done = self.queue(port).finish_transmits(statuses);
        assert_eq!(done.len(), statuses.len(), "pending transmits to finish");
        let more = self.device.transmitted(port, self.queue, &done);
        self.settle(more);
    }

    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize {
        let queue = self.queue;
        let packets = self.world().arrive(port, queue, frames);
        if !packets.is_empty() {
            let more = self.device.received(port, queue, &packets);
            self.settle(more);
        }
        packets.len()
    }

    fn posted_buffers(&mut self, port: u32) -> usize {
        self.queue(port).posted_buffers()
    }

    fn limit_buffers(&mut self, port: u32, most: usize) {
        self.queue(port).limit_buffers(most);
    }

    fn pending_transmits(&mut self, port: u32) -> usize {
        self.queue(port).pending_transmits()
    }

    fn steering(&mut self, port: u32) -> Option<Steering> {
        self.world().port(port).steering().cloned()
    }

    fn rate_limit(&mut self, port: u32) -> Option<u32> {
        self.world().port(port).rate_limit
    }

    fn count_link(&mut self, port: u32, counted: LinkStatistics) {
        self.world().port(port).counted = counted;
    }

    fn set_link(&mut self, port: u32, up: bool) {
        self.device.link_changed(port, up);
        self.settle(true);
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
    /// Whether devices have windows.
    pub windows: bool,
    /// Whether a device is saved after its calls, and a new one continues.
    pub moves: bool,
    /// Queue pairs of each port, fewer if the device does not have that many in all.
    pub queues: u16,
    /// The features that devices are offered.
    pub offered: Features,
}

impl Default for NativeWorkshop {
    /// Makes devices with windows, one queue a port, and no feature.
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
            with_windows: self.windows,
            offered: self.offered,
            ..World::with_ports(ports, self.queues.min(MAX_PAIRS / ports as u16))
        };
        NativeBench {
            device: configured(world),
            moves: self.moves,
            earlier: None,
            calls: 0,
            queue: 0,
        }
    }
}
