//! Through the device to a TAP and back, against a bare loop of system calls
//! on the same TAP.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use manatee::component::Component;
use manatee::device::Limits;
use manatee::endpoint::{Endpoint, Tap};
use manatee_conformance::driver::nic::Sizes;
use manatee_guest_linux::netns::{self, Subnet};
use manatee_guest_linux::stage::Stage;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket,
};
use rustix::io::{readv, writev};

use super::device::{BATCH, transmit};
use crate::driver::{Layout, Thin};
use crate::machine::Machine;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, alternate};
use crate::sandboxed::Sandboxed;

const ROUNDS: usize = 101;
const TIMES: u32 = 10;
const SIZES: [u32; 3] = [64, 512, 1514];
const NAME: &str = "bench0";
/// `virtio_net_hdr`, which every packet has in front.
const HEADER: usize = 10;
/// An EtherType that nobody takes: the kernel drops the frame once it has it.
const FRAME: [u8; 14] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// How long frames may be on their way.
const PATIENCE: Duration = Duration::from_secs(5);

const OF_BARE: Bound = Bound::AtLeast(0.9);

/// The device on a TAP, and the same TAP's descriptor.
struct Lab {
    device: Thin<Sandboxed>,
    bare: OwnedFd,
    wire: Wire,
    _interface: netns::Tap,
}

/// Where frames for the TAP are sent.
struct Wire {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Lab {
    fn new(stage: &Stage, bytes: u32) -> Result<Self> {
        let ip = stage.assets.ip();
        let interface = netns::Tap::create(&stage.sandbox, &ip, NAME, Subnet::new(15))?;
        // Without IPv6 the kernel says nothing here by itself.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1")?;
        let tap = Tap::open(NAME)?;
        let bare = tap.readiness().context("a TAP without a descriptor")?;
        let bare = bare.try_clone_to_owned()?;
        let layout = Layout::of(bytes);
        let endpoints = vec![Box::new(tap) as Box<dyn Endpoint>];
        let component = Component::embedded()?;
        let machine = Sandboxed::new(&component, endpoints, layout.ram(), Limits::default())?;
        let device = Thin::new(machine, 1, Sizes::LARGE, layout)?;
        for packet in 0..u64::from(BATCH) {
            let address = layout.packets.0 + packet * layout.packets.1;
            device.machine.ram().write(address, &FRAME);
        }
        // What it has said already.
        while readv(&bare, &mut [IoSliceMut::new(&mut [0; 2048])]).is_ok() {}
        Ok(Self {
            device,
            bare,
            wire: Wire::new()?,
            _interface: interface,
        })
    }
}

impl Wire {
    fn new() -> Result<Self> {
        let (family, kind) = (AddressFamily::Packet, SockType::Raw);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
        let mut interfaces = getifaddrs().context("listing interfaces")?;
        let interface = interfaces.find_map(|interface| {
            let address = interface
                .address
                .filter(|_| interface.interface_name == NAME)?;
            (address.family() == Some(AddressFamily::Packet))
                .then(|| *address.as_link_addr().expect("of its family"))
        });
        Ok(Self {
            socket: socket.context("a packet socket")?,
            interface: interface.context("the TAP has no link address")?,
        })
    }

    /// Has frames of this many bytes wait at the TAP.
    fn send(&self, bytes: u32, count: u32) {
        let mut frame = vec![0; bytes as usize];
        frame[..FRAME.len()].copy_from_slice(&FRAME);
        for _ in 0..count {
            let flags = MsgFlags::empty();
            let sent = sendto(self.socket.as_raw_fd(), &frame, &self.interface, flags);
            sent.expect("a frame that the TAP takes");
        }
    }
}

/// The row `tap`.
///
/// # Errors
///
/// There can be no TAP.
pub fn run(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for bytes in SIZES {
        figures.push(sent(stage, bytes)?);
        figures.push(received(stage, bytes)?);
    }
    Ok(figures)
}

/// Takes as many frames as were sent. The last ones may still be on their way.
fn receive_all(device: &mut Thin<Sandboxed>) {
    device.post_buffers(0, BATCH);
    device.ring_receive(0);
    let mut count = device.take_received(0);
    let begun = Instant::now();
    while count < BATCH {
        assert!(
            begun.elapsed() < PATIENCE,
            "frames that were sent do not arrive"
        );
        std::thread::yield_now();
        count += device.take_received(0);
    }
}

fn sent(stage: &Stage, bytes: u32) -> Result<Figure> {
    let Lab {
        mut device,
        bare,
        _interface,
        ..
    } = Lab::new(stage, bytes)?;
    let mut frame = vec![0; bytes as usize];
    frame[..FRAME.len()].copy_from_slice(&FRAME);
    let bare = || {
        for _ in 0..BATCH {
            let parts = [IoSlice::new(&[0; HEADER]), IoSlice::new(&frame)];
            let written = writev(&bare, &parts).expect("a frame that the kernel takes");
            assert_eq!(written, HEADER + frame.len());
        }
    };
    let measured = alternate(
        ROUNDS,
        vec![
            Contender::timed("device", TIMES, || transmit(&mut device)).per(BATCH.into()),
            Contender::timed("bare writev", TIMES, bare).per(BATCH.into()),
        ],
    );
    let share = measured[1].over(&measured[0]);
    let figure = Figure::reported(
        "tap",
        format!("transmit, {bytes} bytes"),
        "ns/packet",
        measured,
    );
    Ok(figure.must("of the bare loop", share, OF_BARE))
}

fn received(stage: &Stage, bytes: u32) -> Result<Figure> {
    let Lab {
        mut device,
        bare,
        wire,
        _interface,
    } = Lab::new(stage, bytes)?;
    let mut buffer = vec![0; 2048];
    // Frames wait before the clock runs: a sample is what taking them costs.
    let through = Contender::timed("device", 1, || receive_all(&mut device)).per(BATCH.into());
    let bare = Contender::timed("bare readv", 1, || {
        for _ in 0..BATCH {
            let mut header = [0; HEADER];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut buffer)];
            let begun = Instant::now();
            let read = loop {
                // The last frames may still be on their way.
                if let Ok(read) = readv(bare.as_fd(), &mut parts) {
                    break read;
                }
                assert!(
                    begun.elapsed() < PATIENCE,
                    "frames that were sent do not arrive"
                );
            };
            assert_eq!(read, HEADER + bytes as usize);
        }
    })
    .per(BATCH.into());
    let arrive = || wire.send(bytes, BATCH);
    let measured = alternate(4 * ROUNDS, vec![through.after(arrive), bare.after(arrive)]);
    let share = measured[1].over(&measured[0]);
    let figure = Figure::reported(
        "tap",
        format!("receive, {bytes} bytes"),
        "ns/packet",
        measured,
    );
    Ok(figure.must("of the bare loop", share, OF_BARE))
}
