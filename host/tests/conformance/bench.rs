//! A device in the host, with the test as its driver and as its network.

use std::fs::File;
use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use device_kit::platform::{RxFlags, TxStatus};
use manatee::component::Component;
use manatee::continuity::{self, HandOver};
use manatee::device::{Device, Limits, Port, SwapOptions};
use manatee::endpoint::Single;
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::bench::{Bench, MEMORY_SIZE, Transmitted, Workshop};
use manatee_conformance::guest::Guest;
use manatee_kit::machine::Machine;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::wire::Wire;

/// The offset of the command register.
const COMMAND: u64 = 4;
const ENABLED: [u8; 2] = [6, 0];
/// The longest that a device may have work left.
const PATIENCE: Duration = Duration::from_secs(20);

/// The number of calls after which a swap follows only some of them: a
/// device with a thousand queues takes long to swap.
const MANY_CALLS: u32 = 400;

/// Size of a guest page in bytes.
const PAGE: u64 = 4096;

struct Processor(Sender<u16>);

impl VectorSink for Processor {
    fn raise(&self, vector: u16) {
        let _ = self.0.send(vector);
    }
}

/// Makes benches with the device in the host.
pub struct HostWorkshop {
    pub component: Component,
    /// Whether devices are given windows.
    pub windows: bool,
    /// Whether the component's module is called directly.
    pub direct: bool,
    /// Whether the component is replaced after every call.
    pub swaps: bool,
    /// Whether the device is handed over to another after every call.
    pub hand_overs: bool,
}

/// A device in the host.
pub struct HostBench {
    machine: Machine,
    wires: Vec<Wire>,
    /// Whether it is expected to have windows.
    windows: bool,
    /// Guest memory that was taken away, in pages.
    revoked: Vec<Range<u64>>,
    /// The component that replaces it after every call.
    successor: Option<Component>,
    /// Makes the device that it is handed over to after every call.
    maker: Option<Maker>,
    /// Calls so far.
    calls: u32,
}

/// Returns a port at each wire.
fn ports(wires: &[Wire]) -> impl Iterator<Item = Port> {
    wires.iter().enumerate().map(|(index, wire)| Port {
        mac: [2, 0, 0, 0, (index >> 8) as u8, index as u8],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Single::new("test", wire.clone())),
    })
}

/// Makes identical devices.
struct Maker {
    component: Component,
    limits: Limits,
    processor: Sender<u16>,
}

impl Maker {
    /// Makes a device at power-on with a port at each wire.
    fn make(&self, wires: &[Wire]) -> Device {
        let sink = Interrupts::Vectors(Box::new(Processor(self.processor.clone())));
        Device::builder(&self.component)
            .ports(ports(wires))
            .limits(self.limits)
            .build(sink)
            .expect("a device")
    }
}

impl Workshop for HostWorkshop {
    type Bench = HostBench;

    fn bench(&self, ports: u32) -> HostBench {
        let (processor, interrupts) = channel();
        let wires: Vec<Wire> = (0..ports).map(|_| Wire::new()).collect();
        let limits = Limits {
            windows: self.windows,
            direct: self.direct,
            ..Limits::default()
        };
        let maker = Maker {
            component: self.component.clone(),
            limits,
            processor,
        };
        let device = maker.make(&wires);
        let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd_create"));
        memory.set_len(MEMORY_SIZE).expect("ftruncate");
        map(&device, &memory, 0..MEMORY_SIZE);
        device.config_write(COMMAND, &ENABLED);
        HostBench {
            machine: Machine {
                device,
                memory,
                interrupts,
            },
            wires,
            windows: self.windows,
            revoked: Vec::new(),
            successor: self.swaps.then(|| self.component.clone()),
            maker: self.hand_overs.then_some(maker),
            calls: 0,
        }
    }
}

/// Maps a range of guest memory.
fn map(device: &Device, memory: &File, range: Range<u64>) {
    if !range.is_empty() {
        let shared = memory.try_clone().expect("a descriptor");
        let size = range.end - range.start;
        let mapped = device.map_memory(range.start, size, Some((shared, range.start)), true);
        mapped.expect("shared memory");
    }
}

impl HostBench {
    /// Replaces the mapped memory by the guest memory that was not taken away.
    fn map_again(&mut self) {
        let Machine { device, memory, .. } = &self.machine;
        device.unmap_all_memory().expect("memory is unmapped");
        self.revoked.sort_by_key(|gone| gone.start);
        let mut from = 0;
        for gone in &self.revoked {
            map(device, memory, from..gone.start.max(from));
            from = from.max(gone.end);
        }
        map(device, memory, from..MEMORY_SIZE);
        // Revoked memory does not come back by itself, so the host need not wait.
        // A write of a byte has no effect on the device.
        device.bar_write(0, 0, &[0]);
        self.settle();
    }

    /// Waits until the device has no work left, in whichever thread it does
    /// it, and fails if the component did.
    fn settle(&mut self) {
        let device = &self.machine.device;
        let begun = Instant::now();
        while device.has_work() {
            assert!(begun.elapsed() < PATIENCE, "the device still has work left");
            std::thread::yield_now();
        }
        if let Some(failure) = device.failure() {
            panic!("{failure}");
        }
        self.calls += 1;
        let often = self.calls < MANY_CALLS || self.calls.is_multiple_of(MANY_CALLS);
        if let Some(successor) = self.successor.as_ref().filter(|_| often) {
            let swapped = device.swap(successor, SwapOptions::default());
            swapped.expect("a component that can take over from itself");
        }
        // Packets that the test's endpoint has not sent end with its process.
        let pending = self.wires.iter().any(|wire| wire.pending() > 0);
        if often && !pending {
            self.hand_over();
        }
    }

    /// Hands the device over to another, as to another process.
    fn hand_over(&mut self) {
        let Some(maker) = &self.maker else {
            return;
        };
        self.rehearse(maker);
        let given = continuity::give_away(&self.machine.device).expect("a device to give away");
        let descriptors = given.into_descriptors().expect("memory for its state");
        let successor = maker.make(&self.wires);
        let read = HandOver::from_descriptors(descriptors).expect("a state as it was written");
        let taken = read.take_over(&successor);
        taken.expect("an identical device can take over");
        self.machine.device = successor;
    }

    /// Lets a successor rehearse, which must have no visible effects.
    fn rehearse(&self, maker: &Maker) {
        let offer = continuity::offer(&self.machine.device).expect("a device to offer");
        let descriptors = offer.into_descriptors().expect("memory for its state");
        let read = HandOver::from_descriptors(descriptors).expect("a state as it was written");
        let ports: Vec<_> = ports(&self.wires).collect();
        let rehearsed = read.rehearse(&maker.component, &ports, maker.limits);
        rehearsed.expect("an identical device can take over");
    }

    fn wire(&self, port: u32) -> &Wire {
        &self.wires[port as usize]
    }
}

impl Drop for HostBench {
    /// Checks that the requirement used the intended path.
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.windows {
            let laid =
                self.machine.device.inspect()["runtime"]["linear_memory"]["windows"].as_u64();
            assert_eq!(laid, Some(0), "a window of a device without windows");
        }
    }
}

impl Bench for HostBench {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.machine.read_register(offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        self.machine.write_register(offset, width, value);
        self.settle();
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.machine.read_memory(address, data);
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.machine.write_memory(address, data);
    }

    fn revoke_memory(&mut self, address: u64, length: u64) {
        let end = (address + length).next_multiple_of(PAGE);
        self.revoked.push(address / PAGE * PAGE..end);
        self.map_again();
    }

    fn give_memory_back(&mut self) {
        self.revoked.clear();
        self.map_again();
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.machine.take_interrupts()
    }

    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted> {
        self.wire(port).take_transmitted()
    }

    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]) {
        self.wire(port).plan(statuses);
    }

    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]) {
        self.wire(port).finish(statuses);
        self.settle();
    }

    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize {
        let arrived = self.wire(port).arrive(frames);
        self.settle();
        arrived
    }

    fn posted_buffers(&mut self, port: u32) -> usize {
        let tree = self.machine.device.inspect();
        let posted = tree["ports"][port.to_string()]["posted_buffers"].as_u64();
        posted.expect("the number of posted buffers") as usize
    }

    fn limit_buffers(&mut self, port: u32, most: usize) {
        self.wire(port).limit_buffers(most);
    }

    fn pending_transmits(&mut self, port: u32) -> usize {
        self.wire(port).pending()
    }

    fn set_link(&mut self, port: u32, up: bool) {
        self.machine.device.set_link(port, up);
        self.settle();
    }

    fn reset(&mut self) {
        self.machine.device.reset();
        self.machine.device.config_write(COMMAND, &ENABLED);
        self.settle();
    }

    fn inspect(&mut self) -> String {
        self.machine.device.inspect()["device"].to_string()
    }
}
