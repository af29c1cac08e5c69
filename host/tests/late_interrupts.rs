//! Which interrupts may be delivered a little later: those that tell a guest what
//! it did itself, and no others.

mod machines;

use std::sync::mpsc::{Sender, channel};

use machines::machine;
use manatee::endpoint::Loopback;
use manatee::interrupt::VectorSink;
use manatee_conformance::driver::nic::Sizes;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::driver::{Driver, traffic};
use manatee_conformance::guest::Unwired;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raised {
    AtOnce,
    Late,
    /// What is late is to come now.
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

#[test]
fn what_a_guest_sent_may_be_told_late_and_what_came_back_is_told_at_once() {
    let (vectors, interrupts) = channel();
    let (how, raised) = channel();
    let sink = Box::new(Processor { vectors, how });
    let machine = machine(Box::new(Loopback::new()), sink, interrupts);
    let mut guest = Unwired(machine);
    let mut driver = Driver::new(&mut guest);
    driver.start().unwrap();
    let mut vport = driver.open_with(0, Sizes::LARGE).unwrap();
    let frame = driver.place(&traffic::frame(64)).unwrap();
    let room = driver.pages(1).unwrap();
    let packet = vport.packet(&[sge(frame, 64)]);
    let buffer = Wqe::receive(&[sge(room, 2048)]);
    let expected = [
        // The event queue has one interrupt, and the send's completion is first.
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
