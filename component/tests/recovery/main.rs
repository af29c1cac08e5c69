//! A device fails at any point, and another continues from what is left: the guest's
//! rings, its doorbells, and an older state.

mod mortal;

use std::panic;

use device_kit::platform::RxFlags;
use mana_wire::bnic::{CreateWqObjMore, SetBwClampReq, SetBwClampResp, code};
use mana_wire::gdma::{Status, cap1};
use mana_wire::oob::CqeType;
use manatee_conformance::bench::Bench;
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::message::Request;
use manatee_conformance::driver::nic::{Sizes, Vport};
use manatee_conformance::driver::pairs::{Rss, in_turn};
use manatee_conformance::driver::traffic::numbered_frame;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::failure::{Outcome, check_eq};
use manatee_conformance::native::Poison;
use mortal::Mortal;

/// Packets that are sent, and as many that are received.
const PACKETS: u8 = 120;
/// Receive buffers that the driver keeps posted.
const BUFFERS: u32 = 24;
/// Suppresses the message of the expected panic.
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
    /// Addresses of the receive buffers.
    buffers: Vec<u64>,
    completed: u8,
    received: Vec<u8>,
    reposted: u32,
}

/// Posts the receive buffers of each queue pair.
fn post(driver: &mut Driver<'_>, pairs: &mut [Vport]) -> Outcome<Vec<Seen>> {
    let mut all: Vec<Seen> = pairs.iter().map(|_| Seen::default()).collect();
    for (vport, seen) in pairs.iter_mut().zip(&mut all) {
        let buffers = (0..BUFFERS).map(|_| driver.place(&[0; 128]));
        seen.buffers = buffers.collect::<Outcome<Vec<u64>>>()?;
        for address in &seen.buffers {
            let buffer = Wqe::receive(&[sge(*address, 128)]);
            vport.rx.wq.write(driver, &buffer);
        }
        vport.rx.wq.ring(driver);
    }
    Ok(all)
}

/// Sends and receives in bursts of uneven length, through one queue pair after the other.
fn exchange(
    driver: &mut Driver<'_>,
    pairs: &mut [Vport],
    all: &mut [Seen],
    packets: u8,
) -> Outcome {
    let mut sent = 0;
    for burst in 1.. {
        if sent == packets {
            break;
        }
        let burst = (burst % 9 + 1).min(packets - sent);
        let numbers = sent..sent + burst;
        sent += burst;
        for (queue, (vport, seen)) in (0..).zip(pairs.iter_mut().zip(&mut *all)) {
            driver.bench.on_queue(queue);
            for number in numbers.clone() {
                let frame = numbered_frame(60, number);
                let address = driver.place(&frame)?;
                let wqe = vport.packet(&[sge(address, 60)]);
                vport.tx.wq.write(driver, &wqe);
            }
            vport.tx.wq.ring(driver);
            let frames: Vec<_> = numbers.clone().map(|n| numbered_frame(61, n)).collect();
            let frames: Vec<_> = frames.iter().map(|f| (&f[..], RxFlags::empty())).collect();
            driver.bench.receive(0, &frames);
            poll(driver, vport, seen)?;
        }
    }
    Ok(())
}

/// Takes completions, and posts each buffer again.
fn poll(driver: &mut Driver<'_>, vport: &mut Vport, seen: &mut Seen) -> Outcome {
    while let Some(completion) = vport.tx.cq.next(driver)? {
        completion.check_type(CqeType::TxOkay as u8)?;
        seen.completed += 1;
    }
    vport.tx.cq.ring(driver, true);
    while let Some(completion) = vport.rx.cq.next(driver)? {
        let others = completion.receive().others;
        let others = others.iter().filter(|length| **length != 0).count();
        let cqe_type = match others {
            0 => CqeType::RxOkay,
            _ => CqeType::RxCoalesced4,
        };
        completion.check_type(cqe_type as u8)?;
        for _ in 0..=others {
            let address = seen.buffers[(seen.reposted % BUFFERS) as usize];
            seen.reposted += 1;
            seen.received.push(driver.read(address, 15)[14]);
            vport
                .rx
                .wq
                .write(driver, &Wqe::receive(&[sge(address, 128)]));
        }
    }
    vport.rx.wq.ring(driver);
    vport.rx.cq.ring(driver, true);
    Ok(())
}

/// Lets a device with this many queue pairs fail after the given number of steps of traffic, and
/// checks what the guest and the wire saw. With several pairs, packets share completions. Returns
/// false if the traffic ended before.
fn survives(steps: u32, windows: bool, pairs: u16) -> bool {
    let packets = PACKETS / pairs as u8;
    let mut bench = Mortal::new(windows);
    let fuse = bench.fuse();
    let mut driver = Driver::new(&mut bench);
    driver.start().expect("a driver that starts");
    let opened = driver.open_pairs(0, pairs, Sizes::SMALL);
    let mut opened = opened.expect("a vport that opens");
    let rss = Rss {
        coalesces: pairs > 1,
        ..Rss::default()
    };
    // The saved state that the device continues from has posted buffers.
    let mut seen = post(&mut driver, &mut opened).expect("room for buffers");
    let asked = driver.succeed(&rss.request(opened[0].handle));
    asked.expect("completions as they are asked for");
    fuse.light(steps);
    let done = exchange(&mut driver, &mut opened, &mut seen, packets);
    done.unwrap_or_else(|error| panic!("{steps} steps: {error}"));
    let mut lost = 0;
    for (queue, seen) in (0..).zip(&seen) {
        bench.on_queue(queue);
        let sent = bench.take_transmitted(0);
        let sent: Vec<u8> = sent.iter().map(|t| t.frame[14]).collect();
        let all: Vec<u8> = (0..packets).collect();
        assert_eq!(sent, all, "{steps} steps: packets on the wire");
        assert_eq!(seen.completed, packets, "{steps} steps: completions");
        let received = &seen.received;
        assert!(received.is_sorted(), "{steps} steps: {received:?}");
        lost += usize::from(packets) - received.len();
    }
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
    for (windows, pairs) in [(false, 1), (true, 1), (true, 3)] {
        let steps = (1..).take_while(|steps| survives(*steps, windows, pairs));
        let steps = steps.count();
        assert!(steps > 20, "only {steps} steps");
    }
}

/// Queues are created and destroyed, and new ones reuse the ids of old ones.
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

fn limit(vport: &Vport, mbps: u32) -> Request {
    let limit = SetBwClampReq {
        vport: vport.handle,
        enable_clamping: 1,
        link_speed_mbps: mbps,
    };
    Request::new(code::SET_BW_CLAMP, &limit, size_of::<SetBwClampResp>())
}

/// Steered-to queues are destroyed; in the end the host has the right steering.
fn steers(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = driver.open_pairs(0, 2, Sizes::SMALL)?;
    let rss = Rss {
        key: Some([3; 40]),
        table: Some(in_turn(&pairs, 4)),
        ..Rss::default()
    };
    driver.succeed(&rss.request(pairs[0].handle))?;
    driver.destroy_object(&pairs[0].rx)?;
    driver.succeed(&limit(&pairs[0], 100))?;
    driver.bench.on_queue(1);
    pairs[1].works(driver)?;
    let steering = driver.bench.steering(0).expect("a device that steers");
    check_eq("key", &steering.key[..], &[3; 40][..])?;
    check_eq("table", steering.table, vec![1; 4])?;
    check_eq("limit", driver.bench.rate_limit(0), Some(100))?;
    driver.disable_rx(pairs[0].handle)?;
    driver.destroy_object(&pairs[1].rx)
}

/// Lets a device fail at each step of a driver's actions.
fn fails_at_each_step_of(what: impl Fn(&mut Driver<'_>) -> Outcome) {
    quietly();
    for steps in 1..2000 {
        let mut bench = Mortal::new(true);
        let fuse = bench.fuse();
        let mut driver = Driver::new(&mut bench);
        driver.start().expect("a driver that starts");
        fuse.light(steps);
        let done = what(&mut driver);
        done.unwrap_or_else(|error| panic!("{steps} steps: {error}"));
        if bench.failures() == 0 {
            assert!(steps > 20);
            return;
        }
    }
    panic!("it takes more than 2000 steps");
}

#[test]
fn a_request_that_fails_is_answered() {
    fails_at_each_step_of(opens_and_closes);
}

#[test]
fn steering_survives_a_failure_anywhere() {
    fails_at_each_step_of(steers);
}

/// Receives a packet and returns the waits of the interrupts, of which there may be more after a
/// failure.
fn waits(driver: &mut Driver<'_>, vport: &mut Vport) -> Vec<u32> {
    vport.post_buffer(driver, 256).expect("a buffer");
    let frame = numbered_frame(60, 0);
    let arrived = vport.arrive(driver, &frame, RxFlags::empty());
    arrived.expect("a packet that arrives");
    vport.eq.drain(driver).expect("events");
    vport.eq.ring(driver, true);
    vport.rx.cq.drain(driver).expect("completions");
    vport.rx.cq.ring(driver, true);
    driver.take_all_interrupts();
    let delayed = driver.bench.take_delayed();
    delayed.into_iter().map(|(_, usec)| usec).collect()
}

/// The checkpoint is older than the doorbells, of which the host remembers the last.
#[test]
fn moderation_survives_a_failure() {
    quietly();
    let both = |usec| (Some(9), Some(usec));
    /// The completions and microseconds of a doorbell.
    type Bell = (Option<u8>, Option<u16>);
    let cases: [(&[Bell], u32); 5] = [
        (&[], 100),
        (&[both(200)], 200),
        (&[both(200), both(300)], 300),
        (&[both(200), (None, Some(400))], 400),
        (&[(None, Some(400)), (Some(7), None)], 400),
    ];
    for (doorbells, expected) in cases {
        let mut bench = Mortal::new(true);
        let fuse = bench.fuse();
        let mut driver = Driver::new(&mut bench);
        driver.start_with(cap1::DRIVER_MODERATION).expect("a start");
        let limits = CreateWqObjMore {
            req_cq_moderation: 1,
            cq_moderation_comp: 8,
            cq_moderation_usec: 100,
            ..CreateWqObjMore::default()
        };
        let opened = driver.open_moderated(0, CreateWqObjMore::default(), limits);
        let mut vport = opened.expect("a vport that opens");
        for (completions, usec) in doorbells {
            driver.ring_dim(vport.rx.cq.id, *completions, *usec);
        }
        fuse.light(1);
        vport.works(&mut driver).expect("a vport that works");
        // The first interrupt after a failure may be one too many.
        waits(&mut driver, &mut vport);
        assert_eq!(waits(&mut driver, &mut vport), [expected], "{doorbells:?}");
        assert_eq!(bench.failures(), 1);
    }
}

/// A doorbell that was ignored before the failure is not believed after it.
#[test]
fn a_driver_that_does_not_moderate_has_none_after_a_failure() {
    quietly();
    let mut bench = Mortal::new(true);
    let fuse = bench.fuse();
    let mut driver = Driver::new(&mut bench);
    let mut vport = driver.start_and_open().expect("a vport that opens");
    driver.ring_dim(vport.rx.cq.id, Some(8), Some(100));
    fuse.light(1);
    vport.works(&mut driver).expect("a vport that works");
    assert!(waits(&mut driver, &mut vport).is_empty());
    assert_eq!(bench.failures(), 1);
}

/// The host got a limit from the failed request, and then gets the right one again.
#[test]
fn a_request_that_always_fails_is_refused_and_changes_nothing() {
    quietly();
    let mut bench = Mortal::new(true);
    bench.poison(Poison::Limit(100));
    let mut driver = Driver::new(&mut bench);
    let mut vport = driver.start_and_open().expect("a vport that opens");
    driver.succeed(&limit(&vport, 500)).expect("a limit");
    let refused = driver.refuse(&limit(&vport, 100), Status::InvalidState);
    refused.expect("an answer");
    assert_eq!(driver.bench.rate_limit(0), Some(500));
    vport.works(&mut driver).expect("a vport that works");
    assert_eq!(bench.failures(), 2);
}

#[test]
fn a_wqe_that_always_fails_is_skipped() {
    quietly();
    let mut bench = Mortal::new(true);
    bench.poison(Poison::Frame(3));
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
