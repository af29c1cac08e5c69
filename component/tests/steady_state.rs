//! The device allocates nothing in steady state.

use allocation_counter::measure;
use device_kit::Adapter;
use device_kit::platform::RxFlags;
use manatee_conformance::driver::nic::{Sizes, Vport};
use manatee_conformance::driver::ring::Wq;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::driver::{Driver, traffic};
use manatee_conformance::guest::{Guest, Unwired};
use manatee_conformance::native::{World, configured};
use manatee_device::Device;

const PACKETS: usize = 64;
/// Rounds after which every buffer has grown to its size.
const WARM_UP: usize = 4;
const ROUNDS: usize = 8;

/// A machine that counts the device's allocations, and receives a packet into every
/// buffer.
struct Machine {
    device: Device<World>,
    allocations: u64,
}

impl Guest for Machine {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.device.read_register(0, offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let Self {
            device,
            allocations,
        } = self;
        let mut more = count(allocations, || {
            device.write_register(0, offset, width, value)
        });
        let frames = [(&[0; 64][..], RxFlags::empty()); PACKETS];
        let received = device.platform().arrive(0, 0, &frames);
        if !received.is_empty() {
            more |= count(allocations, || device.received(0, 0, &received));
        }
        while more {
            more = count(allocations, || device.service());
        }
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.device.platform().memory.peek(address, data).unwrap();
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.device.platform().memory.poke(address, data).unwrap();
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.device.platform().take_interrupts()
    }
}

/// Adds the allocations of `act` to `allocations`.
fn count<T>(allocations: &mut u64, act: impl FnOnce() -> T) -> T {
    let mut result = None;
    let counted = measure(|| result = Some(act()));
    *allocations += counted.count_total;
    result.expect("it was measured")
}

fn machine() -> Machine {
    let mut world = World {
        with_windows: true,
        ..World::with_ports(1, 1)
    };
    // The world would allocate for packets that it keeps.
    world.queue(0, 0).keeps = 0;
    let device = configured(world);
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
        driver.take_all_interrupts();
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
