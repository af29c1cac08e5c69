//! A device that fails in the middle of anything, and one that continues from
//! what is left: the guest's rings, its doorbells, and an older state.

mod mortal;

use std::panic;

use device_kit::platform::RxFlags;
use mana_wire::oob::CqeType;
use manatee_conformance::bench::Bench;
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::nic::{Sizes, Vport};
use manatee_conformance::driver::traffic::numbered_frame;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::failure::Outcome;
use mortal::Mortal;

/// Packets that are sent, and as many that arrive.
const PACKETS: u8 = 120;
/// Receive buffers that the driver keeps posted.
const BUFFERS: u32 = 24;
/// Whatever a device prints when it fails is expected here.
fn quietly() {
    panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("the fuse is blown") {
            eprintln!("{info}");
        }
    }));
}

/// What the driver has seen.
#[derive(Default)]
struct Seen {
    completed: u8,
    received: Vec<u8>,
    reposted: u32,
}

/// Sends and receives in bursts of uneven length.
fn exchange(driver: &mut Driver<'_>, vport: &mut Vport) -> Outcome<Seen> {
    let mut seen = Seen::default();
    let buffers = (0..BUFFERS).map(|_| driver.place(&[0; 128]));
    let buffers = buffers.collect::<Outcome<Vec<u64>>>()?;
    for address in &buffers {
        vport
            .rx
            .wq
            .write(driver, &Wqe::receive(&[sge(*address, 128)]));
    }
    vport.rx.wq.ring(driver);
    let mut sent = 0;
    for burst in 1.. {
        if sent == PACKETS {
            break;
        }
        let burst = (burst % 9 + 1).min(PACKETS - sent);
        for number in sent..sent + burst {
            let frame = numbered_frame(60, number);
            let address = driver.place(&frame)?;
            let wqe = vport.packet(&[sge(address, 60)]);
            vport.tx.wq.write(driver, &wqe);
        }
        vport.tx.wq.ring(driver);
        let frames: Vec<_> = (sent..sent + burst)
            .map(|n| numbered_frame(61, n))
            .collect();
        let frames: Vec<_> = frames.iter().map(|f| (&f[..], RxFlags::empty())).collect();
        driver.bench.receive(0, &frames);
        sent += burst;
        poll(driver, vport, &buffers, &mut seen)?;
    }
    Ok(seen)
}

/// Takes completions, and posts each buffer again.
fn poll(driver: &mut Driver<'_>, vport: &mut Vport, buffers: &[u64], seen: &mut Seen) -> Outcome {
    while let Some(completion) = vport.tx.cq.next(driver)? {
        completion.check_type(CqeType::TxOkay as u8)?;
        seen.completed += 1;
    }
    vport.tx.cq.ring(driver, true);
    while let Some(completion) = vport.rx.cq.next(driver)? {
        completion.check_type(CqeType::RxOkay as u8)?;
        let address = buffers[(seen.reposted % BUFFERS) as usize];
        seen.reposted += 1;
        seen.received.push(driver.read(address, 15)[14]);
        vport
            .rx
            .wq
            .write(driver, &Wqe::receive(&[sge(address, 128)]));
    }
    vport.rx.wq.ring(driver);
    vport.rx.cq.ring(driver, true);
    Ok(())
}

/// Lets a device fail at the given number of steps into the traffic, and
/// checks what the guest and the wire saw. False if it did not get that far.
fn survives(steps: u32, windows: bool) -> bool {
    let mut bench = Mortal::new(windows);
    let fuse = bench.fuse();
    let mut driver = Driver::new(&mut bench);
    driver.start().expect("a driver that starts");
    let vport = driver.open_with(0, Sizes::SMALL);
    let mut vport = vport.expect("a vport that opens");
    fuse.light(steps);
    let seen = exchange(&mut driver, &mut vport);
    let seen = seen.unwrap_or_else(|error| panic!("{steps} steps: {error}"));
    let sent: Vec<u8> = bench
        .take_transmitted(0)
        .iter()
        .map(|t| t.frame[14])
        .collect();
    let all: Vec<u8> = (0..PACKETS).collect();
    assert_eq!(sent, all, "{steps} steps: packets on the wire");
    assert_eq!(seen.completed, PACKETS, "{steps} steps: completions");
    assert!(
        seen.received.is_sorted(),
        "{steps} steps: {:?}",
        seen.received
    );
    let lost = usize::from(PACKETS) - seen.received.len();
    assert!(
        lost <= bench.in_hand(),
        "{steps} steps: {lost} packets lost"
    );
    let failed = bench.failures() > 0;
    assert!(failed || lost == 0);
    failed
}

#[test]
fn traffic_survives_a_failure_anywhere() {
    quietly();
    for windows in [false, true] {
        let steps = (1..).take_while(|steps| survives(*steps, windows)).count();
        assert!(steps > 20, "only {steps} steps");
    }
}

/// Queues come and go, and new ones have the ids of old ones.
fn opens_and_closes(driver: &mut Driver<'_>) -> Outcome {
    driver.deregister()?;
    driver.register()?;
    for number in 0..3 {
        let mut vport = driver.open_with(0, Sizes::SMALL)?;
        vport.send(driver, &numbered_frame(60, number))?;
        driver.close(&vport)?;
    }
    Ok(())
}

#[test]
fn a_request_that_fails_is_answered() {
    quietly();
    for steps in 1..2000 {
        let mut bench = Mortal::new(true);
        let fuse = bench.fuse();
        let mut driver = Driver::new(&mut bench);
        driver.start().expect("a driver that starts");
        fuse.light(steps);
        let done = opens_and_closes(&mut driver);
        done.unwrap_or_else(|error| panic!("{steps} steps: {error}"));
        if bench.failures() == 0 {
            assert!(steps > 20);
            return;
        }
    }
    panic!("opening and closing a vport takes more than 2000 steps");
}

#[test]
fn an_entry_that_always_fails_is_passed_over() {
    quietly();
    let mut bench = Mortal::new(true);
    bench.poison(3);
    let mut driver = Driver::new(&mut bench);
    let mut vport = driver.start_and_open().expect("a vport that opens");
    let mut types = Vec::new();
    for number in 0..6 {
        let address = driver.place(&numbered_frame(60, number)).unwrap();
        let wqe = vport.packet(&[sge(address, 60)]);
        types.push(vport.transmit(&mut driver, &wqe).unwrap().0);
    }
    let okay = CqeType::TxOkay as u8;
    let error = CqeType::TxGdmaError as u8;
    assert_eq!(types, [okay, okay, okay, error, okay, okay]);
    let sent: Vec<u8> = bench
        .take_transmitted(0)
        .iter()
        .map(|t| t.frame[14])
        .collect();
    assert_eq!(sent, [0, 1, 2, 4, 5]);
    assert_eq!(bench.failures(), 2);
}
