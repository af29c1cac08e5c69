//! A machine with a device of one port.

use std::fs::File;
use std::sync::mpsc::Receiver;

use manatee::component::Component;
use manatee::device::{Device, Port};
use manatee::endpoint::Endpoint;
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::guest::MEMORY_SIZE;

pub use manatee_kit::machine::Machine;

/// Returns a machine whose device has this endpoint, may use memory, and raises vectors by
/// `sink`, which forwards them to `interrupts`.
pub fn machine(
    endpoint: Box<dyn Endpoint>,
    sink: Box<dyn VectorSink>,
    interrupts: Receiver<u16>,
) -> Machine {
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint,
    };
    let component = Component::embedded().unwrap();
    let device = Device::new(&component, vec![port], Interrupts::Vectors(sink)).unwrap();
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let memory = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
    memory.set_len(MEMORY_SIZE).unwrap();
    let shared = Some((memory.try_clone().unwrap(), 0));
    device.map_memory(0, MEMORY_SIZE, shared, true).unwrap();
    device.config_write(4, &6u16.to_le_bytes());
    Machine {
        device,
        memory,
        interrupts,
    }
}
