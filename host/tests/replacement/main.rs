//! Replacements of a device's component, and its failures.

mod candidate;
mod first;
mod rehearsal;

use std::fs::File;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use candidate::{Candidate, Restores};
use mana_wire::oob::CqeType;
use mana_wire::queue::eqe;
use manatee::component::Component;
use manatee::device::{CrashPolicy, Device, Limits, Port, SwapError, SwapOptions};
use manatee::endpoint::{Endpoint, Loopback, Null};
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::driver::nic::Vport;
use manatee_conformance::driver::{Driver, traffic, wqe::sge};
use manatee_conformance::failure::Outcome;
use manatee_conformance::guest::{MEMORY_SIZE, Unwired};
use manatee_kit::machine::Machine;
use rustix::fs::{MemfdFlags, memfd_create};

/// Memory space and bus master, in the command register.
const COMMAND: (u64, [u8; 2]) = (4, [6, 0]);
/// Packets that fit into a completion queue of one page.
const BURST: u64 = 50;
const NO_PROBATION: SwapOptions = SwapOptions {
    probation: Duration::ZERO,
};

struct Channel(Sender<u16>);

impl VectorSink for Channel {
    fn raise(&self, vector: u16) {
        let _ = self.0.send(vector);
    }
}

fn component(bytes: &[u8], name: &str) -> Component {
    Component::from_bytes(bytes, name).expect("a component of the world")
}

fn next() -> Component {
    component(manatee_variants::NEXT, "next.wasm")
}

fn machine(component: &Component) -> Machine {
    machine_at(component, Box::new(Loopback::new()))
}

fn machine_at(component: &Component, endpoint: Box<dyn Endpoint>) -> Machine {
    machine_with(component, endpoint, CrashPolicy::default())
}

fn machine_with(
    component: &Component,
    endpoint: Box<dyn Endpoint>,
    policy: CrashPolicy,
) -> Machine {
    let (sender, interrupts) = channel();
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint,
    };
    let limits = Limits {
        deadline: Duration::from_millis(200),
        ..Limits::default()
    };
    let sink = Interrupts::Vectors(Box::new(Channel(sender)));
    let device = Device::builder(component)
        .port(port)
        .limits(limits)
        .crash_policy(policy)
        .build(sink);
    let device = device.expect("a device");
    let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    memory.set_len(MEMORY_SIZE).unwrap();
    let shared = memory.try_clone().unwrap();
    device
        .map_memory(0, MEMORY_SIZE, Some((shared, 0)), true)
        .unwrap();
    device.config_write(COMMAND.0, &COMMAND.1);
    Machine {
        device,
        memory,
        interrupts,
    }
}

/// Sends a frame and receives it back.
fn echo(driver: &mut Driver<'_>, vport: &mut Vport) -> Outcome {
    let frame = traffic::frame(700);
    let (buffer, place) = vport.post_buffer(driver, 1514)?;
    let address = driver.place(&frame)?;
    let packet = vport.packet(&[sge(address, frame.len() as u32)]);
    vport.transmit(driver, &packet)?.expect(CqeType::TxOkay)?;
    vport.take_frame(driver, &frame, buffer, place)
}

#[test]
fn versions_take_over_from_each_other_and_back() {
    let mut machine = Unwired(machine(&Component::embedded().unwrap()));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    echo(&mut driver, &mut vport).unwrap();
    assert!(matches!(device.rollback(), Err(SwapError::NoPrevious)));

    let swap = device.swap(&next(), NO_PROBATION).unwrap();
    assert_eq!((&*swap.from, &*swap.to), ("0.1.0", "0.1.0+next"));
    assert!(swap.state_bytes < 64 << 10, "{} bytes", swap.state_bytes);
    echo(&mut driver, &mut vport).unwrap();

    let back = device.rollback().unwrap();
    assert_eq!(
        (&*back.from, &*back.to, back.rollback),
        ("0.1.0+next", "0.1.0", true)
    );
    echo(&mut driver, &mut vport).unwrap();
    let runtime = device.inspect()["runtime"].clone();
    assert_eq!(runtime["swap_count"], 2);
    assert_eq!(runtime["swaps"][0]["to"], "0.1.0+next");
    assert_eq!(runtime["previous_version"], "0.1.0+next");
    assert_eq!(runtime["state"], "running");
}

/// Offers a candidate to a device with traffic; it is refused, and the traffic
/// continues. Returns why.
fn refusal(candidate: Candidate, options: SwapOptions) -> SwapError {
    let mut machine = Unwired(machine(&Component::embedded().unwrap()));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    echo(&mut driver, &mut vport).unwrap();
    let before = device.inspect();
    let error = device.swap(&component(&candidate.bytes(), "candidate.wasm"), options);
    let error = error.expect_err("a candidate that can't take over");
    let after = device.inspect();
    assert_eq!(before["component"], after["component"]);
    assert_eq!(before["device"], after["device"]);
    assert_eq!(after["runtime"]["swap_count"], 0);
    echo(&mut driver, &mut vport).unwrap();
    assert!(error.to_string().contains("candidate.wasm"), "{error}");
    error
}

#[test]
fn another_device_is_refused() {
    let twin = Candidate::TWIN;
    for (candidate, what) in [
        (
            Candidate {
                device_id: 0xb9,
                ..twin
            },
            "PCI identity",
        ),
        (
            Candidate {
                bar_size: 0x4000,
                ..twin
            },
            "BARs",
        ),
        (
            Candidate {
                vectors: 64,
                ..twin
            },
            "MSI-X",
        ),
    ] {
        let error = refusal(candidate, NO_PROBATION);
        assert!(matches!(error, SwapError::Identity { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn one_that_reads_other_states_is_refused() {
    let error = refusal(
        Candidate {
            format: 99,
            ..Candidate::TWIN
        },
        NO_PROBATION,
    );
    assert!(error.to_string().contains("[99]"), "{error}");
    assert!(matches!(error, SwapError::Format { .. }));
}

#[test]
fn one_that_fails_while_it_takes_over_is_refused() {
    let traps = Candidate {
        takes_ports: false,
        ..Candidate::TWIN
    };
    for candidate in [traps, Candidate::TWIN] {
        let error = refusal(candidate, SwapOptions::default());
        assert!(matches!(error, SwapError::Failed(..)), "{error}");
    }
}

#[test]
fn one_that_takes_things_back_while_it_takes_over_is_refused() {
    for (function, what) in [
        ("cancel-receive", "took buffers back"),
        ("cancel-transmit", "gave transmits up"),
    ] {
        let candidate = Candidate {
            restores: Restores::Calling(function),
            ..Candidate::TWIN
        };
        let error = refusal(candidate, NO_PROBATION);
        assert!(matches!(error, SwapError::Failed(..)), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn two_swaps_at_once_are_one_and_a_refusal() {
    let machine = machine(&Component::embedded().unwrap());
    let device = &machine.device;
    let successors = [next(), Component::embedded().unwrap()];
    std::thread::scope(|scope| {
        let swaps = successors.each_ref().map(|successor| {
            scope.spawn(|| {
                let swaps = (0..50).map(|_| device.swap(successor, NO_PROBATION));
                swaps
                    .filter(|swap| match swap {
                        Ok(_) => true,
                        Err(SwapError::Busy) => false,
                        Err(error) => panic!("{error}"),
                    })
                    .count() as u64
            })
        });
        let done: u64 = swaps.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(done > 0);
        assert_eq!(device.inspect()["runtime"]["swap_count"], done);
    });
}

#[test]
fn a_swap_meets_a_reset_or_a_vmm_that_goes() {
    let mut machine = Unwired(machine(&Component::embedded().unwrap()));
    let device = machine.0.device.clone();
    let successors = [next(), Component::embedded().unwrap()];
    let (stop, stopped) = channel::<()>();
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let stopped = stopped;
            let mut swaps = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                device.swap(&successors[swaps % 2], NO_PROBATION).unwrap();
                swaps += 1;
            }
            swaps
        });
        for round in 0..20 {
            let mut driver = Driver::new(&mut machine);
            let mut vport = driver.start_and_open().unwrap();
            echo(&mut driver, &mut vport).unwrap();
            drop(driver);
            if round % 2 == 0 {
                machine.0.device.reset();
            } else {
                machine.0.device.detach();
                let shared = machine.0.memory.try_clone().unwrap();
                let device = &machine.0.device;
                device
                    .map_memory(0, MEMORY_SIZE, Some((shared, 0)), true)
                    .unwrap();
            }
            machine.0.device.config_write(COMMAND.0, &COMMAND.1);
        }
        drop(stop);
        assert!(swapping.join().unwrap() > 0);
    });
    assert!(device.failure().is_none());
}

/// Sends until the faulty device has failed this often. Returns the numbers of packets that were
/// sent, and of error completions.
fn send_through_faults(device: &Device, driver: &mut Driver<'_>, failures: u64) -> (u64, u64) {
    let mut vport = driver.open(0).unwrap();
    let address = driver.place(&traffic::frame(60)).unwrap();
    let (mut sent, mut errors) = (0, 0);
    while device.inspect()["runtime"]["failures"].as_u64().unwrap() < failures {
        for _ in 0..BURST {
            let packet = vport.packet(&[sge(address, 60)]);
            vport.tx.wq.write(driver, &packet);
        }
        vport.tx.wq.ring(driver);
        // The device's thread does the work that is left when the lock is released.
        while device.has_work() {
            std::thread::yield_now();
        }
        let completions = vport.tx.cq.drain(driver).unwrap();
        assert_eq!(
            completions.len() as u64,
            BURST,
            "each packet has a completion"
        );
        errors += completions
            .iter()
            .filter(|c| c.cqe_type() != CqeType::TxOkay as u8)
            .count() as u64;
        vport.tx.cq.ring(driver, true);
        sent += BURST;
        assert!(sent < 2_000_000, "the faults do not occur");
    }
    (sent, errors)
}

#[test]
fn every_seeded_fault_is_survived() {
    let faulty = component(manatee_variants::FAULTY, "faulty.wasm");
    let mut machine = Unwired(machine_at(&faulty, Box::new(Null::default())));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    driver.start().unwrap();
    // Five recurring faults, each of which fails two instances, and five transient
    // ones.
    let (sent, errors) = send_through_faults(&device, &mut driver, 15);
    let tree = device.inspect();
    let runtime = &tree["runtime"];
    assert_eq!(runtime["state"], "running", "{runtime:#}");
    assert!(
        runtime["recovery_count"].as_u64() >= Some(14),
        "{runtime:#}"
    );
    assert!(
        (4..=6).contains(&errors),
        "{errors} of {sent} packets failed"
    );
}

#[test]
fn the_guest_is_asked_to_reset_a_device_that_does_not_recover() {
    let faulty = component(manatee_variants::FAULTY, "faulty.wasm");
    let policy = CrashPolicy {
        recoveries: 1,
        last_tries: 1,
    };
    let mut machine = Unwired(machine_with(&faulty, Box::new(Null::default()), policy));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    driver.start().unwrap();
    // The first fault recurs: the second instance that meets it is the last
    // that continues without a reset request.
    send_through_faults(&device, &mut driver, 2);
    let mut hwc = driver.hwc.take().unwrap();
    let events = hwc.eq.drain(&mut driver).unwrap();
    let asked = events
        .iter()
        .any(|event| event.event_type == eqe::HWC_RESET_REQUEST);
    assert!(asked, "{events:?}");
    let recoveries = &device.inspect()["runtime"]["recoveries"];
    assert_eq!(recoveries[1]["asked_for_reset"], true, "{recoveries:#}");
}

#[test]
fn a_device_that_can_not_recover_is_down_until_it_is_reset() {
    let faulty = component(manatee_variants::FAULTY, "faulty.wasm");
    let policy = CrashPolicy {
        recoveries: 1,
        last_tries: 0,
    };
    let mut machine = Unwired(machine_with(&faulty, Box::new(Null::default()), policy));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    driver.start().unwrap();
    let mut vport = driver.open(0).unwrap();
    let address = driver.place(&traffic::frame(60)).unwrap();
    while device.failure().is_none() {
        let packet = vport.packet(&[sge(address, 60)]);
        vport.tx.wq.post(&mut driver, &packet);
        while device.has_work() {
            std::thread::yield_now();
        }
        vport.tx.cq.drain(&mut driver).unwrap();
        vport.tx.cq.ring(&mut driver, true);
    }
    drop(driver);
    let down = device.inspect()["runtime"].clone();
    assert_eq!(
        (&down["state"], &down["failures"]),
        (&"down".into(), &2.into())
    );
    let mut register = [0; 4];
    (0..1000).for_each(|_| device.bar_read(0, 0, &mut register));
    assert_eq!(register, [0xff; 4]);
    assert_eq!(device.inspect()["runtime"]["failures"], 2);
    assert!(matches!(
        device.swap(&next(), NO_PROBATION),
        Err(SwapError::Down(_))
    ));

    device.reset();
    device.config_write(COMMAND.0, &COMMAND.1);
    let mut driver = Driver::new(&mut machine);
    driver.start_and_open().unwrap();
    assert_eq!(device.inspect()["runtime"]["state"], "running");
}

#[test]
fn a_component_that_fails_in_its_probation_is_rolled_back() {
    let mut machine = Unwired(machine_at(
        &Component::embedded().unwrap(),
        Box::new(Null::default()),
    ));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    driver.start().unwrap();
    let faulty = component(manatee_variants::FAULTY, "faulty.wasm");
    let options = SwapOptions {
        probation: Duration::from_secs(3600),
    };
    device.swap(&faulty, options).unwrap();
    let (_, errors) = send_through_faults(&device, &mut driver, 1);
    assert_eq!(errors, 0, "the previous component has no faults");
    let tree = device.inspect();
    assert_eq!(tree["component"]["version"], "0.1.0");
    assert_eq!(tree["runtime"]["swaps"][1]["rollback"], true);
    assert_eq!(tree["runtime"]["recovery_count"], 1);
}

#[test]
fn ten_thousand_swaps_leave_nothing_behind() {
    let mut machine = Unwired(machine(&Component::embedded().unwrap()));
    let device = machine.0.device.clone();
    let successors = [next(), Component::embedded().unwrap()];
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let used = || {
        let count = |path| std::fs::read_dir(path).unwrap().count();
        let maps = std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count();
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
        (
            count("/proc/self/fd"),
            count("/proc/self/task"),
            maps,
            pages,
        )
    };
    let swap = |round: usize, driver: &mut Driver<'_>, vport: &mut Vport| {
        device.swap(&successors[round % 2], NO_PROBATION).unwrap();
        if round.is_multiple_of(100) {
            echo(driver, vport).unwrap();
        }
    };
    (0..100).for_each(|round| swap(round, &mut driver, &mut vport));
    let before = used();
    (100..10_000).for_each(|round| swap(round, &mut driver, &mut vport));
    let after = used();
    // Other tests run in parallel; a leak of ten thousand would show.
    assert!(
        after.0 < before.0 + 100,
        "descriptors: {before:?} {after:?}"
    );
    assert!(after.1 < before.1 + 100, "threads: {before:?} {after:?}");
    assert!(after.2 < before.2 + 2000, "mappings: {before:?} {after:?}");
    assert!(after.3 < before.3 + 64 * 256, "pages: {before:?} {after:?}");
}
