//! A device that fails takes nothing with it, and comes back with a reset.

mod huge;
#[path = "../../examples/embed/machine.rs"]
mod machine;
mod mapped;

use std::fs::File;
use std::sync::mpsc::{Sender, channel};

use machine::Machine;
use manatee::component::Component;
use manatee::device::{CrashPolicy, Device, Limits, Port};
use manatee::endpoint::Loopback;
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::driver::{Driver, traffic, wqe::sge};
use manatee_conformance::failure::Outcome;
use manatee_conformance::guest::{MEMORY_SIZE, Unwired};
use manatee_device::wire::oob::CqeType;
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
    machine_with(windows, CrashPolicy::default())
}

fn machine_with(windows: bool, policy: CrashPolicy) -> Machine {
    let component = Component::embedded().unwrap();
    let (sender, interrupts) = channel();
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Loopback::new()),
    };
    let limits = Limits {
        windows,
        ..Limits::default()
    };
    let sink = Interrupts::Vectors(Box::new(Channel(sender)));
    let device = Device::with_policy(&component, vec![port], sink, limits, policy).unwrap();
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

/// A frame goes out and comes back.
fn echo(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
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
fn memory_taken_away_under_a_window_is_a_trap_of_that_device_alone() {
    let other = machine(true);
    // No instance can go on without its queues.
    let policy = CrashPolicy {
        recoveries: 0,
        ..CrashPolicy::default()
    };
    let mut victim = Unwired(machine_with(true, policy));
    let device = victim.0.device.clone();
    let mut driver = Driver::new(&mut victim);
    echo(&mut driver).unwrap();
    device.unmap_memory(0, MEMORY_SIZE).unwrap();

    // The next request reads a queue that is gone.
    let ids = device.inspect()["device"]["hwc"].clone();
    let (sq, rq) = (ids["sq"].as_u64().unwrap(), ids["rq"].as_u64().unwrap());
    for (offset, id) in [(0x1400, rq), (0x1000, sq)] {
        let posted = device.inspect()["device"]["queues"]
            [if offset == 0x1000 { "sq" } else { "rq" }][id.to_string()]["posted"]
            .as_u64()
            .unwrap_or_default();
        let doorbell = id | (posted + 32) << 32;
        device.bar_write(0, offset, &doorbell.to_le_bytes());
    }
    let failure = device.failure().expect("reading a page that is gone traps");
    assert!(failure.to_string().contains("wasm"), "{failure}");
    let mut register = [0; 4];
    device.bar_read(0, 0, &mut register);
    assert_eq!(register, [0xff; 4], "a failed device reads as ones");

    echo(&mut Driver::new(&mut Unwired(other))).unwrap();

    // The VMM gives the memory back and resets the device: a fresh instance.
    share_memory(&victim.0);
    device.reset();
    device.config_write(COMMAND.0, &COMMAND.1);
    assert!(device.failure().is_none());
    echo(&mut Driver::new(&mut victim)).unwrap();
    assert_eq!(device.inspect()["runtime"]["restarts"], 1);
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
fn without_bus_master_the_device_touches_no_memory() {
    let mut machine = Unwired(machine(false));
    let device = machine.0.device.clone();
    device.config_write(COMMAND.0, &[2, 0]);
    assert!(echo(&mut Driver::new(&mut machine)).is_err());
    device.config_write(COMMAND.0, &COMMAND.1);
    device.reset();
    device.config_write(COMMAND.0, &COMMAND.1);
    echo(&mut Driver::new(&mut machine)).unwrap();
}

#[test]
fn ending_a_device_ends_its_thread_and_its_descriptors() {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    drop(machine(true));
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    for _ in 0..20 {
        drop(machine(true));
    }
    // Threads of this and other tests come and go; twenty would stay.
    let after = (count("/proc/self/fd"), count("/proc/self/task"));
    assert!(
        after.0 < before.0 + 20 && after.1 < before.1 + 20,
        "{before:?} {after:?}"
    );
}
