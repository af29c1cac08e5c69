//! A whole device in steady state: the host allocates nothing for it.

mod machines;

use std::sync::mpsc::{Sender, channel};

use allocation_counter::measure;
use machines::machine;
use mana_wire::queue::WqDoorbell;
use manatee::device::Device;
use manatee::endpoint::{Endpoint, Loopback, Null};
use manatee::interrupt::VectorSink;
use manatee_conformance::driver::nic::{Sizes, Vport};
use manatee_conformance::driver::ring::Wq;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::driver::{Driver, traffic};
use manatee_conformance::guest::Unwired;

const PACKETS: usize = 64;
/// The number of rounds after which every buffer has its final size.
const WARM_UP: usize = 4;
const ROUNDS: usize = 8;

struct Processor(Sender<u16>);

impl VectorSink for Processor {
    fn raise(&self, vector: u16) {
        let _ = self.0.send(vector);
    }
}

/// Posts WQEs, and returns the number of allocations of the doorbell.
fn ring(device: &Device, driver: &mut Driver<'_>, queue: &mut Wq, entry: &Wqe) -> u64 {
    for _ in 0..PACKETS {
        queue.write(driver, entry);
    }
    let bell = WqDoorbell::new().with_id(queue.id).with_tail(queue.head);
    let offset = driver.registers().doorbells + queue.doorbell;
    measure(|| device.bar_write(0, offset, &bell.into_bits().to_le_bytes())).count_total
}

/// Returns the number of allocations of a round in steady state. `receives` says
/// whether sent packets come back.
fn allocations(endpoint: Box<dyn Endpoint>, receives: bool) -> u64 {
    let (sender, interrupts) = channel();
    let machine = machine(endpoint, Box::new(Processor(sender)), interrupts);
    let device = machine.device.clone();
    let mut guest = Unwired(machine);
    let mut driver = Driver::new(&mut guest);
    driver.start().unwrap();
    let mut vport = driver.open_with(0, Sizes::LARGE).unwrap();
    let frame = driver.place(&traffic::frame(64)).unwrap();
    let room = driver.pages(1).unwrap();
    let (packet, buffer) = (
        vport.packet(&[sge(frame, 64)]),
        Wqe::receive(&[sge(room, 2048)]),
    );
    let mut total = 0;
    for round in 0..WARM_UP + ROUNDS {
        let Vport { tx, rx, .. } = &mut vport;
        let mut counted = 0;
        if receives {
            counted += ring(&device, &mut driver, &mut rx.wq, &buffer);
        }
        counted += ring(&device, &mut driver, &mut tx.wq, &packet);
        assert_eq!(tx.cq.drain(&mut driver).unwrap().len(), PACKETS);
        tx.cq.ring(&mut driver, false);
        if receives {
            assert_eq!(rx.cq.drain(&mut driver).unwrap().len(), PACKETS);
            rx.cq.ring(&mut driver, false);
        }
        if round >= WARM_UP {
            total += counted;
        }
    }
    total
}

#[test]
fn transmit_allocates_nothing() {
    assert_eq!(allocations(Box::new(Null::new()), false), 0);
}

#[test]
fn receive_allocates_nothing() {
    assert_eq!(allocations(Box::new(Loopback::new()), true), 0);
}
