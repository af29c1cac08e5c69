//! A VMM that replaces itself: it gives its device away, executes its own successor, and the
//! guest continues there.
//!
//! The descriptors wait in a socket pair of the process itself, one end of which `execve` leaves
//! open as standard input.
//!
//! ```console
//! $ cargo run --example successor
//! ```

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use manatee::component::Component;
use manatee::continuity::{HandOver, give_away};
use manatee::device::{Device, Port};
use manatee::endpoint::Null;
use manatee::interrupt::{Interrupts, VectorSink};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The argument that makes the program a successor; the generation follows.
const COMMAND: &str = "generation";
/// The last generation.
const LAST: u32 = 3;
/// The interrupt line register, which only a guest's firmware uses.
const INTERRUPT_LINE: u64 = 0x3c;

struct Nobody;

impl VectorSink for Nobody {
    fn raise(&self, _vector: u16) {}
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let device = device()?;
    let generation = match &arguments[1..] {
        [command, generation] if command == COMMAND => {
            let taken = HandOver::from_descriptors(receive()?)?;
            let pause = taken.take_over(&device)?;
            println!("the device was paused for {} us", pause.as_micros());
            generation.parse()?
        }
        _ => {
            let memory = File::from(rustix::fs::memfd_create(
                "guest",
                rustix::fs::MemfdFlags::CLOEXEC,
            )?);
            memory.set_len(1 << 20)?;
            device.map_memory(0, 1 << 20, Some((memory, 0)), true)?;
            // Memory space on, bus master on, and a value to verify later.
            device.config_write(4, &[6, 0]);
            device.config_write(INTERRUPT_LINE, &[42]);
            0
        }
    };
    let mut line = [0];
    device.config_read(INTERRUPT_LINE, &mut line);
    ensure!(line == [42], "the guest's configuration is lost");
    let regions = &device.inspect()["memory"]["region_count"];
    println!("generation {generation}: {regions} region of guest memory, interrupt line {line:?}");
    if generation == LAST {
        return Ok(());
    }
    replace(&device, generation + 1)
}

/// Gives the device away and executes the successor.
fn replace(device: &Device, generation: u32) -> Result<()> {
    let descriptors = give_away(device)?.into_descriptors()?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, successors) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for (name, descriptor) in &descriptors {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [descriptor.as_fd()];
        ensure!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        let parts = [IoSlice::new(name.as_bytes())];
        sendmsg(&ours, &parts, &mut control, SendFlags::empty())?;
    }
    rustix::stdio::dup2_stdin(&successors)?;
    let error = Command::new(std::env::current_exe()?)
        .args([COMMAND, &generation.to_string()])
        .exec();
    // It could not be executed: this process continues.
    device.resume();
    Err(error).context("executing the successor")
}

/// Takes the descriptors that the predecessor has left.
fn receive() -> Result<Vec<(String, OwnedFd)>> {
    let mut descriptors = Vec::new();
    loop {
        let mut name = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut name)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        // `execve` closed the other end, so this ends after the last descriptor.
        let received = recvmsg(stdin().as_fd(), &mut parts, &mut control, flags)?;
        if received.bytes == 0 {
            return Ok(descriptors);
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                let name = String::from_utf8_lossy(&name[..received.bytes]).into_owned();
                descriptors.extend(rights.map(|descriptor| (name.clone(), descriptor)));
            }
        }
    }
}

/// Returns a device at power-on.
fn device() -> Result<Device> {
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Null::with_queues(1)),
    };
    let interrupts = Interrupts::Vectors(Box::new(Nobody));
    Ok(Device::new(
        &Component::embedded()?,
        vec![port],
        interrupts,
    )?)
}
