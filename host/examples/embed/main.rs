//! Embeds the adapter in a program and sends a packet through it.
//!
//! `main` is what a VMM does. Where a VMM runs a guest, this example runs a
//! driver (that of the conformance suite) which does the same as
//! Linux's: it brings the device up over its registers, posts a receive buffer,
//! and transmits a frame, which a loopback port sends back.
//!
//! ```console
//! $ cargo run --example embed
//! ```
//!
//! With the name of a file, it writes the compiled component there, for a build without
//! a compiler (without the feature `compiler`).

mod machine;

use std::fs::File;
use std::sync::mpsc::{Sender, channel};

use anyhow::Result;
use mana_wire::oob::CqeType;
use manatee::component::Component;
use manatee::device::{Device, Port};
use manatee::endpoint::Loopback;
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::driver::{Driver, traffic, wqe::sge};
use manatee_conformance::guest::{MEMORY_SIZE, Unwired};

use machine::Machine;

/// Delivers interrupts to the guest's processors.
struct Processor(Sender<u16>);

impl VectorSink for Processor {
    fn raise(&self, vector: u16) {
        // An error means that the driver has ended.
        let _ = self.0.send(vector);
    }
}

fn main() -> Result<()> {
    #[cfg(feature = "compiler")]
    if let Some(path) = std::env::args_os().nth(1) {
        return Ok(std::fs::write(path, Component::precompile()?)?);
    }
    let component = Component::embedded()?;
    let (sender, interrupts) = channel();
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Loopback::new()),
    };
    let sink = Interrupts::Vectors(Box::new(Processor(sender)));
    let device = Device::new(&component, vec![port], sink)?;

    // The guest's memory, by descriptor, at guest address 0.
    let memory = File::from(rustix::fs::memfd_create(
        "guest",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    memory.set_len(MEMORY_SIZE)?;
    device.map_memory(0, MEMORY_SIZE, Some((memory.try_clone()?, 0)), true)?;

    // As firmware and the operating system write to the command register:
    // memory space on, bus master on.
    device.config_write(4, &6u16.to_le_bytes());

    run_guest(Machine {
        device: device.clone(),
        memory,
        interrupts,
    })?;
    println!("{:#}", device.inspect()["ports"]["0"]["counters"]);
    Ok(())
}

/// Sends a frame and receives it back.
fn run_guest(machine: Machine) -> Result<()> {
    let mut machine = Unwired(machine);
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open()?;
    println!(
        "the driver is up: send queue {}, receive queue {}",
        vport.tx.wq.id, vport.rx.wq.id
    );
    let frame = traffic::frame(1000);
    let (buffer, place) = vport.post_buffer(&mut driver, 1514)?;
    let address = driver.place(&frame)?;
    let packet = vport.packet(&[sge(address, frame.len() as u32)]);
    vport
        .transmit(&mut driver, &packet)?
        .expect(CqeType::TxOkay)?;
    vport.take_frame(&mut driver, &frame, buffer, place)?;
    println!("a frame of {} bytes went out and came back", frame.len());
    Ok(())
}
