//! Saves a device in one process and restores it in another, during traffic.
//!
//! The first process runs the guest: its memory, and a driver (that of the
//! conformance suite) which sends frames through a loopback port. In the middle
//! it saves its device and starts the second process, which creates its own
//! device over the same memory, restores the state, and carries out
//! the driver's register accesses from then on.
//!
//! ```console
//! $ cargo run --example handover
//! ```

mod remote;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use mana_wire::oob::CqeType;
use manatee::component::Component;
use manatee::device::{Device, Port};
use manatee::endpoint::Loopback;
use manatee::interrupt::{Interrupts, VectorSink};
use manatee_conformance::driver::nic::Vport;
use manatee_conformance::driver::{Driver, traffic, wqe::sge};
use manatee_conformance::guest::{Guest, MEMORY_SIZE, Unwired};
use remote::Remote;

/// The number of frames before and after the handover.
const FRAMES: u8 = 10;

/// Delivers interrupts to the guest's processors.
struct Processor(Sender<u16>);

impl VectorSink for Processor {
    fn raise(&self, vector: u16) {
        // In the second process there is no receiver: the driver of this example
        // polls its queues once it is up.
        let _ = self.0.send(vector);
    }
}

/// The process that has the device.
pub enum Place {
    /// This process.
    Here(Device),
    /// Another process.
    There(Remote),
}

/// The machine that the driver runs in.
struct Machine {
    place: Arc<Mutex<Place>>,
    memory: File,
    interrupts: Receiver<u16>,
}

impl Guest for Machine {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        match &mut *self.place.lock().expect("the only thread") {
            Place::Here(device) => {
                let mut value = [0; 8];
                device.bar_read(0, offset, &mut value[..width.into()]);
                u64::from_le_bytes(value)
            }
            Place::There(remote) => remote.read(offset, width).expect("the other process"),
        }
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        match &mut *self.place.lock().expect("the only thread") {
            Place::Here(device) => {
                device.bar_write(0, offset, &value.to_le_bytes()[..width.into()]);
            }
            Place::There(remote) => {
                let written = remote.write(offset, width, value);
                written.expect("the other process");
            }
        }
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        let read = self.memory.read_exact_at(data, address);
        read.expect("guest memory can be read");
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        let written = self.memory.write_all_at(data, address);
        written.expect("guest memory can be written");
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.interrupts.try_iter().collect()
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, memory] = &arguments[..]
        && command == remote::COMMAND
    {
        return take_over(memory);
    }
    let memory = File::from(rustix::fs::memfd_create(
        "guest",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    memory.set_len(MEMORY_SIZE)?;
    let (sender, interrupts) = channel();
    let device = device(memory.try_clone()?, sender)?;
    // Memory space on, bus master on, as the guest's firmware does.
    device.config_write(4, &6u16.to_le_bytes());
    let place = Arc::new(Mutex::new(Place::Here(device)));
    let mut machine = Unwired(Machine {
        place: place.clone(),
        memory: memory.try_clone()?,
        interrupts,
    });
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open()?;
    let buffers = (0..2 * FRAMES).map(|_| vport.post_buffer(&mut driver, 1514));
    let buffers = buffers.collect::<Result<Vec<_>, _>>()?;
    let (before, after) = buffers.split_at(FRAMES.into());

    exchange(&mut driver, &mut vport, 0, before)?;
    hand_over(&place, &memory)?;
    exchange(&mut driver, &mut vport, FRAMES, after)?;
    println!("{} frames went out and came back, in order", 2 * FRAMES);
    Ok(())
}

/// Returns a device over the guest's memory.
fn device(memory: File, processor: Sender<u16>) -> Result<Device> {
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Loopback::new()),
    };
    let interrupts = Interrupts::Vectors(Box::new(Processor(processor)));
    let device = Device::new(&Component::embedded()?, vec![port], interrupts)?;
    device.map_memory(0, MEMORY_SIZE, Some((memory, 0)), true)?;
    Ok(device)
}

/// Sends a frame for each posted buffer, and receives it there.
fn exchange(
    driver: &mut Driver<'_>,
    vport: &mut Vport,
    first: u8,
    buffers: &[(u64, u32)],
) -> Result<()> {
    for (number, (buffer, place)) in (first..).zip(buffers) {
        let frame = traffic::numbered_frame(1000, number);
        let address = driver.place(&frame)?;
        let packet = vport.packet(&[sge(address, frame.len() as u32)]);
        vport.transmit(driver, &packet)?.expect(CqeType::TxOkay)?;
        vport.take_frame(driver, &frame, *buffer, *place)?;
    }
    Ok(())
}

/// Moves the device to another process.
fn hand_over(place: &Mutex<Place>, memory: &File) -> Result<()> {
    let mut place = place.lock().expect("the only thread");
    let Place::Here(device) = &*place else {
        return Ok(());
    };
    let state = device.save()?;
    println!(
        "saved in process {}: {} bytes",
        std::process::id(),
        state.len()
    );
    // Another process opens the same memory by this path.
    let path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let remote = Remote::start(&path, &state)?;
    println!("restored in process {}", remote.id());
    // The device of this process ends here.
    *place = Place::There(remote);
    Ok(())
}

/// Runs the second process: restores the device and serves its registers.
fn take_over(memory: &str) -> Result<()> {
    let open = File::options().read(true).write(true).open(memory);
    let device = device(open.context("opening the guest's memory")?, channel().0)?;
    let state = remote::receive_state()?;
    device.restore(&state)?;
    ensure!(device.failure().is_none(), "the device failed");
    remote::serve(&device)
}
