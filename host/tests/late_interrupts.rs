//! Which interrupts may be deferred: only those for completions of the guest's own sends.

mod machines;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use machines::{Machine, machine};
use mana_wire::bnic::CreateWqObjMore;
use mana_wire::gdma::cap1;
use mana_wire::queue::MAX_MODERATION_USEC;
use manatee::device::Device;
use manatee::endpoint::Loopback;
use manatee::interrupt::VectorSink;
use manatee_conformance::driver::nic::Sizes;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::driver::{Driver, traffic};
use manatee_conformance::guest::Unwired;

/// The longest that an interrupt may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raised {
    AtOnce,
    Late,
    /// Deferred interrupts are to be delivered now.
    Hurry,
}

struct Processor {
    vectors: Sender<u16>,
    how: Sender<Raised>,
}

impl VectorSink for Processor {
    fn raise(&self, vector: u16) {
        let _ = self.how.send(Raised::AtOnce);
        let _ = self.vectors.send(vector);
    }

    fn raise_late(&self, vector: u16) {
        let _ = self.how.send(Raised::Late);
        let _ = self.vectors.send(vector);
    }

    fn hurry(&self) {
        let _ = self.how.send(Raised::Hurry);
    }
}

/// Returns a guest whose packets come back, and how its interrupts are raised.
fn guest() -> (Unwired<Machine>, Receiver<Raised>) {
    let (vectors, interrupts) = channel();
    let (how, raised) = channel();
    let sink = Box::new(Processor { vectors, how });
    let machine = machine(Box::new(Loopback::new()), sink, interrupts);
    (Unwired(machine), raised)
}

#[test]
fn what_a_guest_sent_may_be_told_late_and_what_came_back_is_told_at_once() {
    let (mut guest, raised) = guest();
    let mut driver = Driver::new(&mut guest);
    driver.start().unwrap();
    let mut vport = driver.open_with(0, Sizes::LARGE).unwrap();
    let frame = driver.place(&traffic::frame(64)).unwrap();
    let room = driver.pages(1).unwrap();
    let packet = vport.packet(&[sge(frame, 64)]);
    let buffer = Wqe::receive(&[sge(room, 2048)]);
    let expected = [
        // The event queue raises one interrupt, and the send's completion comes first.
        ("both completion queues armed", true, Raised::Late),
        ("that of sends not armed", false, Raised::AtOnce),
    ];
    for (what, arm_sends, how) in expected {
        vport.tx.cq.ring(&mut driver, arm_sends);
        vport.rx.cq.ring(&mut driver, true);
        vport.eq.ring(&mut driver, true);
        vport.rx.wq.post(&mut driver, &buffer);
        while raised.try_recv().is_ok() {}
        vport.tx.wq.post(&mut driver, &packet);
        assert_eq!(
            raised.try_iter().collect::<Vec<_>>(),
            [how, Raised::Hurry],
            "{what}"
        );
        assert_eq!(vport.rx.cq.drain(&mut driver).unwrap().len(), 1);
        assert_eq!(vport.tx.cq.drain(&mut driver).unwrap().len(), 1);
        vport.eq.drain(&mut driver).unwrap();
    }
}

/// The limits of a queue whose interrupts wait as long as a driver may ask for.
const WAITS: CreateWqObjMore = CreateWqObjMore {
    allow_rqwqe_chain: 0,
    req_cq_moderation: 1,
    cq_moderation_comp: u8::MAX as u16,
    cq_moderation_usec: MAX_MODERATION_USEC,
    reserved2: [0; 2],
};

/// Sends a packet that comes back, on queues whose interrupts wait, and then does this. Returns how
/// the interrupt for both was raised.
fn raised_after(act: impl FnOnce(&Device)) -> Raised {
    let (mut guest, raised) = guest();
    let device = guest.0.device.clone();
    let mut driver = Driver::new(&mut guest);
    driver.start_with(cap1::DRIVER_MODERATION).unwrap();
    let mut vport = driver.open_moderated(0, WAITS, WAITS).unwrap();
    let frame = driver.place(&traffic::frame(64)).unwrap();
    vport.post_buffer(&mut driver, 2048).unwrap();
    let packet = vport.packet(&[sge(frame, 64)]);
    while raised.try_recv().is_ok() {}
    vport.tx.wq.post(&mut driver, &packet);
    act(&device);
    let found = loop {
        match raised.recv_timeout(PATIENCE).expect("an interrupt") {
            Raised::Hurry => {}
            found => break found,
        }
    };
    assert_eq!(vport.rx.cq.drain(&mut driver).unwrap().len(), 1);
    assert_eq!(vport.tx.cq.drain(&mut driver).unwrap().len(), 1);
    found
}

#[test]
fn interrupt_that_waits_is_raised_although_nothing_else_happens() {
    for _ in 0..20 {
        assert_eq!(raised_after(|_| {}), Raised::AtOnce);
    }
}

#[test]
fn interrupt_that_waits_is_raised_before_the_device_is_saved() {
    let raised = raised_after(|device| drop(device.save().unwrap()));
    assert_eq!(raised, Raised::AtOnce);
}

/// The MSI-X control register, its enable and function mask bits, and the offset of the pending
/// bits in their BAR.
const MSIX_CONTROL: u64 = 0x82;
const ENABLED: u16 = 1 << 15;
const ENABLED_AND_MASKED: u16 = 0b11 << 14;
const MSIX_PBA: u64 = 0x88;

fn pending(device: &Device) -> u64 {
    let mut place = [0; 4];
    device.config_read(MSIX_PBA, &mut place);
    let place = u32::from_le_bytes(place);
    let mut bits = [0; 8];
    device.bar_read((place & 7) as u8, u64::from(place & !7), &mut bits);
    u64::from_le_bytes(bits)
}

#[test]
fn function_mask_holds_back_what_the_device_raises() {
    let (mut guest, raised) = guest();
    let device = guest.0.device.clone();
    let mut driver = Driver::new(&mut guest);
    driver.start().unwrap();
    let mut vport = driver.open_with(0, Sizes::LARGE).unwrap();
    let frame = driver.place(&traffic::frame(64)).unwrap();
    let room = driver.pages(1).unwrap();
    let packet = vport.packet(&[sge(frame, 64)]);
    let buffer = Wqe::receive(&[sge(room, 2048)]);
    let control = |bits: u16| device.config_write(MSIX_CONTROL, &bits.to_le_bytes());
    let begun = || {
        raised
            .try_iter()
            .filter(|how| *how != Raised::Hurry)
            .count()
    };
    for _ in 0..2 {
        control(ENABLED_AND_MASKED);
        vport.tx.cq.ring(&mut driver, true);
        vport.rx.cq.ring(&mut driver, true);
        vport.eq.ring(&mut driver, true);
        vport.rx.wq.post(&mut driver, &buffer);
        begun();
        vport.tx.wq.post(&mut driver, &packet);
        assert_eq!(begun(), 0, "while all are masked");
        assert_eq!(pending(&device).count_ones(), 1);
        control(ENABLED);
        assert_eq!((begun(), pending(&device)), (1, 0));
        control(ENABLED);
        assert_eq!(begun(), 0, "once");
        assert_eq!(vport.rx.cq.drain(&mut driver).unwrap().len(), 1);
        assert_eq!(vport.tx.cq.drain(&mut driver).unwrap().len(), 1);
        vport.eq.drain(&mut driver).unwrap();
    }
}
