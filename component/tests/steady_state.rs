//! The device in steady state: what it allocates (nothing).

use std::fmt;

use allocation_counter::measure;
use device_kit::Adapter;
use device_kit::adapter::PortConfig;
use device_kit::platform::{
    Features, Level, MemoryError, Platform, RxBuffer, RxFlags, RxPacket, Segment, TransmitResult,
    TxPacket,
};
use device_kit::window::Window;
use manatee_conformance::driver::nic::{Sizes, Vport};
use manatee_conformance::driver::ring::Wq;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::driver::{Driver, traffic};
use manatee_conformance::guest::{Guest, Unwired};
use manatee_conformance::native::memory::GuestMemory;
use manatee_device::Device;

const PACKETS: usize = 64;
/// Rounds after which every buffer has grown to its size.
const WARM_UP: usize = 4;
const ROUNDS: usize = 8;

/// A world that allocates nothing itself.
struct World {
    memory: GuestMemory,
    interrupts: Vec<u16>,
    /// Buffers that the device posted.
    posted: Vec<RxPacket>,
}

impl Platform for World {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(address, data)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(address, data)
    }

    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        self.memory.window(pages, repeats)
    }

    fn unmap_window(&mut self, window: Window) {
        GuestMemory::unmap(window);
    }

    fn raise(&mut self, vectors: &[u16]) {
        self.interrupts.extend(vectors);
    }

    fn transmit(&mut self, _: u32, _: u32, _: &[TxPacket], _: &[Segment]) -> TransmitResult {
        TransmitResult::default()
    }

    fn post_receive(&mut self, _: u32, _: u32, buffers: &[RxBuffer], _: &[Segment]) -> u32 {
        self.posted.extend(buffers.iter().map(|buffer| RxPacket {
            id: buffer.id,
            length: 64,
            vlan_tci: 0,
            flags: RxFlags::empty(),
            hash: 0,
        }));
        buffers.len() as u32
    }

    fn cancel_receive(&mut self, _: u32, _: u32) {}

    fn cancel_transmit(&mut self, _: u32, _: u32) {}

    fn changed(&mut self) {}

    fn attempt(&mut self, _: u64) {}

    fn log(&mut self, _: Level, _: fmt::Arguments<'_>) {}
}

/// A machine that counts what the device allocates, and has a packet arrive
/// in every buffer.
struct Machine {
    device: Device<World>,
    allocations: u64,
}

impl Guest for Machine {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.device.read_register(0, offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let device = &mut self.device;
        let counted = measure(|| {
            let mut more = device.write_register(0, offset, width, value);
            let mut posted = std::mem::take(&mut device.platform().posted);
            if !posted.is_empty() {
                more |= device.received(0, 0, &posted);
            }
            posted.clear();
            device.platform().posted = posted;
            while more {
                more = device.service();
            }
        });
        self.allocations += counted.count_total;
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.device.platform().memory.read(address, data).unwrap();
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.device.platform().memory.write(address, data).unwrap();
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.device.platform().interrupts.drain(..).collect()
    }
}

fn machine() -> Machine {
    let mut device = Device::new(World {
        memory: GuestMemory::new(),
        interrupts: Vec::with_capacity(PACKETS),
        posted: Vec::with_capacity(PACKETS),
    });
    let port = PortConfig {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        link_up: true,
        queues: 1,
    };
    device.configure(Features::empty(), &[port]).unwrap();
    Machine {
        device,
        allocations: 0,
    }
}

fn post(driver: &mut Driver<'_>, queue: &mut Wq, entry: &Wqe) {
    for _ in 0..PACKETS {
        queue.write(driver, entry);
    }
    queue.ring(driver);
}

/// Sends and receives for some rounds; every completion must be there.
fn run(driver: &mut Driver<'_>, vport: &mut Vport, entries: &(Wqe, Wqe), rounds: usize) {
    for _ in 0..rounds {
        post(driver, &mut vport.tx.wq, &entries.0);
        post(driver, &mut vport.rx.wq, &entries.1);
        for cq in [&mut vport.tx.cq, &mut vport.rx.cq] {
            assert_eq!(cq.drain(driver).unwrap().len(), PACKETS);
            cq.ring(driver, true);
        }
        vport.eq.drain(driver).unwrap();
        vport.eq.ring(driver, true);
    }
}

#[test]
fn packets_both_ways_allocate_nothing() {
    let mut guest = Unwired(machine());
    let mut driver = Driver::new(&mut guest);
    driver.start().unwrap();
    let mut vport = driver.open_with(0, Sizes::LARGE).unwrap();
    let frame = driver.place(&traffic::frame(64)).unwrap();
    let room = driver.pages(1).unwrap();
    let entries = (
        vport.packet(&[sge(frame, 64)]),
        Wqe::receive(&[sge(room, 2048)]),
    );
    run(&mut driver, &mut vport, &entries, WARM_UP);
    let before = guest.0.allocations;
    assert!(before > 0, "setting a device up is counted");
    run(&mut Driver::new(&mut guest), &mut vport, &entries, ROUNDS);
    assert_eq!(guest.0.allocations - before, 0);
}
