//! A device that fails harms nothing else, and works again after a reset.

mod huge;
mod mapped;
mod vmm;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Sender, channel};

use mana_wire::oob::CqeType;
use manatee::component::Component;
use manatee::device::{Device, Limits, Port};
use manatee::endpoint::{Endpoint, Loopback};
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::driver::nic::Vport;
use manatee_conformance::driver::{Driver, traffic, wqe::sge};
use manatee_conformance::failure::Outcome;
use manatee_conformance::guest::{MEMORY_SIZE, Unwired};
use manatee_kit::machine::Machine;
use rustix::fs::{MemfdFlags, memfd_create};

/// Memory space and bus master, in the command register.
const COMMAND: (u64, [u8; 2]) = (4, [6, 0]);

struct Channel(Sender<u16>);

impl VectorSink for Channel {
    fn raise(&self, vector: u16) {
        let _ = self.0.send(vector);
    }
}

fn machine(windows: bool) -> Machine {
    machine_with(windows, Box::new(Loopback::new()))
}

fn machine_with(windows: bool, endpoint: Box<dyn Endpoint>) -> Machine {
    let component = Component::embedded().unwrap();
    let (sender, interrupts) = channel();
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint,
    };
    let limits = Limits {
        windows,
        ..Limits::default()
    };
    let sink = Interrupts::Vectors(Box::new(Channel(sender)));
    let device = Device::builder(&component)
        .port(port)
        .limits(limits)
        .build(sink)
        .unwrap();
    let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    memory.set_len(MEMORY_SIZE).unwrap();
    let machine = Machine {
        device,
        memory,
        interrupts,
    };
    share_memory(&machine);
    machine.device.config_write(COMMAND.0, &COMMAND.1);
    machine
}

fn share_memory(machine: &Machine) {
    let file = machine.memory.try_clone().unwrap();
    machine
        .device
        .map_memory(0, MEMORY_SIZE, Some((file, 0)), true)
        .unwrap();
}

/// Returns the content of guest memory.
fn content(memory: &File) -> Vec<u8> {
    let mut bytes = vec![0; MEMORY_SIZE as usize];
    memory.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Sends a frame and receives it back.
fn echo(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    echo_again(driver, &mut vport)
}

/// As [`echo`], over existing queues.
fn echo_again(driver: &mut Driver<'_>, vport: &mut Vport) -> Outcome {
    let frame = traffic::frame(700);
    let (buffer, place) = vport.post_buffer(driver, 1514)?;
    let address = driver.place(&frame)?;
    let packet = vport.packet(&[sge(address, frame.len() as u32)]);
    vport.transmit(driver, &packet)?.expect(CqeType::TxOkay)?;
    vport.take_frame(driver, &frame, buffer, place)
}

#[test]
fn both_memory_paths_carry_packets() {
    for windows in [true, false] {
        let machine = machine(windows);
        let device = machine.device.clone();
        let mut machine = Unwired(machine);
        echo(&mut Driver::new(&mut machine)).unwrap();
        let tree = device.inspect();
        let laid = tree["runtime"]["linear_memory"]["windows"]
            .as_u64()
            .unwrap();
        assert_eq!(laid > 0, windows, "{tree:#}");
    }
}

#[test]
fn queues_continue_after_their_memory_was_briefly_unmapped() {
    for windows in [true, false] {
        let mut machine = Unwired(machine(windows));
        let device = machine.0.device.clone();
        let file = machine.0.memory.try_clone().unwrap();
        let mut driver = Driver::new(&mut machine);
        let mut vport = driver.start_and_open().unwrap();
        for _ in 0..40 {
            echo_again(&mut driver, &mut vport).unwrap();
            device.unmap_memory(0, MEMORY_SIZE).unwrap();
            let file = file.try_clone().unwrap();
            let memory = Some((file, 0));
            device.map_memory(0, MEMORY_SIZE, memory, true).unwrap();
        }
        echo_again(&mut driver, &mut vport).unwrap();
        let runtime = device.inspect()["runtime"].clone();
        assert_eq!(runtime["failures"], 0, "{runtime:#}");
    }
}

#[test]
fn memory_that_stays_away_ends_its_queues_and_nothing_else() {
    let other = machine(true);
    let mut victim = Unwired(machine(true));
    let device = victim.0.device.clone();
    let mut driver = Driver::new(&mut victim);
    echo(&mut driver).unwrap();
    device.unmap_memory(0, MEMORY_SIZE).unwrap();

    // The next request is in a queue whose memory is unmapped.
    let tree = device.inspect();
    let queues = &tree["device"]["queues"];
    for (offset, kind) in [(0x1400, "rq"), (0x1000, "sq")] {
        let id = tree["device"]["hwc"][kind].as_u64().unwrap();
        let posted = queues[kind][id.to_string()]["posted"]
            .as_u64()
            .unwrap_or_default();
        let doorbell = id | (posted + 32) << 32;
        device.bar_write(0, offset, &doorbell.to_le_bytes());
    }
    assert!(device.failure().is_none(), "{:?}", device.failure());
    let runtime = device.inspect()["runtime"].clone();
    assert_eq!(runtime["failures"], 0, "{runtime:#}");

    echo(&mut Driver::new(&mut Unwired(other))).unwrap();

    // The VMM maps the memory again, and the driver restarts.
    share_memory(&victim.0);
    device.reset();
    device.config_write(COMMAND.0, &COMMAND.1);
    echo(&mut Driver::new(&mut victim)).unwrap();
    assert_eq!(device.inspect()["runtime"]["restarts"], 0);
}

#[test]
fn a_vmm_that_goes_leaves_a_device_for_the_next() {
    let mut machine = Unwired(machine(true));
    let device = machine.0.device.clone();
    for _ in 0..3 {
        echo(&mut Driver::new(&mut machine)).unwrap();
        device.detach();
        let tree = device.inspect();
        assert_eq!(tree["runtime"]["linear_memory"]["windows"], 0);
        assert_eq!(tree["memory"]["regions"].as_array().map(Vec::len), Some(0));
        assert_eq!(tree["device"]["hwc"]["established"], false);
        share_memory(&machine.0);
        device.config_write(COMMAND.0, &COMMAND.1);
    }
}

#[test]
fn without_bus_master_the_device_touches_no_memory_and_continues_with_it() {
    for windows in [true, false] {
        let mut machine = Unwired(machine(windows));
        let device = machine.0.device.clone();
        let file = machine.0.memory.try_clone().unwrap();
        let mut driver = Driver::new(&mut machine);
        let mut vport = driver.start_and_open().unwrap();
        echo_again(&mut driver, &mut vport).unwrap();
        let frame = traffic::frame(100);
        let (buffer, place) = vport.post_buffer(&mut driver, 1514).unwrap();
        device.config_write(COMMAND.0, &[2, 0]);
        let address = driver.place(&frame).unwrap();
        let packet = vport.packet(&[sge(address, 100)]);
        vport.tx.wq.write(&mut driver, &packet);
        let before = content(&file);
        vport.tx.wq.ring(&mut driver);
        assert!(
            content(&file) == before,
            "windows={windows}: memory was written"
        );
        device.config_write(COMMAND.0, &COMMAND.1);
        vport.tx.cq.expect(&mut driver).unwrap();
        vport.tx.cq.ring(&mut driver, true);
        vport
            .take_frame(&mut driver, &frame, buffer, place)
            .unwrap();
        echo_again(&mut driver, &mut vport).unwrap();
    }
}

#[test]
fn ending_a_device_ends_its_thread_and_its_descriptors() {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    drop(machine(true));
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    for _ in 0..20 {
        drop(machine(true));
    }
    // Other tests start and end threads meanwhile; a leak of twenty would show.
    let after = (count("/proc/self/fd"), count("/proc/self/task"));
    assert!(
        after.0 < before.0 + 20 && after.1 < before.1 + 20,
        "{before:?} {after:?}"
    );
}
