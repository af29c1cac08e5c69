//! Interrupts that wait, on hosts with and without the feature.

use device_kit::Adapter;
use device_kit::platform::{Features, RxFlags};
use mana_wire::bnic::CreateWqObjMore;
use mana_wire::gdma::cap1;
use manatee_conformance::bench::Workshop;
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::nic::Vport;
use manatee_conformance::driver::traffic::frame;
use manatee_conformance::native::{NativeWorkshop, World, configured};
use manatee_device::Device;

const LIMITS: CreateWqObjMore = CreateWqObjMore {
    allow_rqwqe_chain: 0,
    req_cq_moderation: 1,
    cq_moderation_comp: 8,
    cq_moderation_usec: 100,
    reserved2: [0; 2],
};

/// Receives a packet, and returns how many interrupts there are at once, and how many that wait.
fn receive(driver: &mut Driver<'_>, vport: &mut Vport) -> (usize, usize) {
    driver.take_all_interrupts();
    driver.bench.take_delayed();
    vport.post_buffer(driver, 256).expect("a buffer");
    let arrived = vport.arrive(driver, &frame(60), RxFlags::empty());
    arrived.expect("a packet that arrives");
    let raised = (
        driver.take_all_interrupts().len(),
        driver.bench.take_delayed().len(),
    );
    vport.eq.drain(driver).expect("events");
    vport.eq.ring(driver, true);
    vport.rx.cq.drain(driver).expect("completions");
    vport.rx.cq.ring(driver, true);
    raised
}

#[test]
fn moderation_that_was_not_offered_is_not_announced_and_does_nothing() {
    let mut bench = NativeWorkshop::default().bench(1);
    let mut driver = Driver::new(&mut bench);
    driver.establish().expect("a channel");
    let answer = driver.verify_version(cap1::DRIVER_MODERATION);
    let found = answer.expect("a version").pf_cap_flags[0];
    assert_eq!(found & cap1::MODERATION, 0);
    driver.register().expect("a registered device");
    let opened = driver.open_moderated(0, LIMITS, LIMITS);
    let mut vport = opened.expect("a vport that opens");
    driver.ring_dim(vport.rx.cq.id, Some(9), Some(200));
    assert_eq!(receive(&mut driver, &mut vport), (1, 0));
}

/// A driver keeps its limits when it moves to a host that does not delay interrupts, and has them
/// again on one that does.
#[test]
fn a_device_that_moderates_continues_without_the_feature() {
    let workshop = NativeWorkshop {
        offered: Features::MODERATION,
        ..NativeWorkshop::default()
    };
    let mut bench = workshop.bench(1);
    let mut driver = Driver::new(&mut bench);
    driver
        .start_with(cap1::DRIVER_MODERATION)
        .expect("a driver that starts");
    let opened = driver.open_moderated(0, LIMITS, LIMITS);
    let mut vport = opened.expect("a vport that opens");
    assert_eq!(receive(&mut driver, &mut vport), (0, 1));
    let memory = driver.memory;
    for (offered, raised) in [(Features::empty(), (1, 0)), (Features::MODERATION, (0, 1))] {
        let state = bench.device.save();
        let old = std::mem::replace(&mut bench.device, Device::new(World::default()));
        bench.device = configured(World {
            offered,
            ..old.into_platform()
        });
        bench.device.restore(&state).expect("a state");
        let mut driver = Driver::new(&mut bench);
        driver.memory = memory.clone();
        assert_eq!(receive(&mut driver, &mut vport), raised);
    }
}
