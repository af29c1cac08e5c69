//! Packets through the device to a TAP and back, against a bare loop of system calls on
//! the same TAP.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
/// An EtherType without a protocol: the kernel drops the frame on arrival.
const FRAME: [u8; 14] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// How long frames may be in flight.
const PATIENCE: Duration = Duration::from_secs(5);

const OF_BARE: Bound = Bound::AtLeast(0.9);

/// The device on a TAP, and the same TAP's descriptor.
struct Lab {
    device: Thin<Sandboxed>,
    bare: OwnedFd,
    wire: Wire,
    _interface: netns::Tap,
}

/// The socket that sends frames to the TAP.
struct Wire {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Lab {
    fn new(stage: &Stage, bytes: u32) -> Result<Self> {
        let ip = stage.assets.ip();
        let interface = netns::Tap::create(&stage.sandbox, &ip, NAME, Subnet::new(15), 1)?;
        // Without IPv6 the kernel sends nothing here on its own.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1")?;
        let tap = Tap::open(NAME)?;
        let bare = tap
            .descriptors()
            .next()
            .context("a TAP without a descriptor")?;
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
        let wire = Wire::new()?;
        wire.wait_until_open(&bare)?;
        Ok(Self {
            device,
            bare,
            wire,
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

    /// Queues frames of this many bytes at the TAP.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    fn send(&self, bytes: u32, count: u32) -> Result<()> {
        let mut frame = vec![0; bytes as usize];
        frame[..FRAME.len()].copy_from_slice(&FRAME);
        for _ in 0..count {
            let flags = MsgFlags::empty();
            sendto(self.socket.as_raw_fd(), &frame, &self.interface, flags)
                .context("the TAP takes no frame")?;
        }
        Ok(())
    }

    /// Sends frames until one arrives, and reads all that are queued by then. The
    /// kernel silently drops frames to a TAP that was just attached, until a work item
    /// has set up its queue.
    ///
    /// # Errors
    ///
    /// If none arrives.
    fn wait_until_open(&self, tap: &OwnedFd) -> Result<()> {
        let again = Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let begun = Instant::now();
        loop {
            self.send(FRAME.len() as u32, 1)?;
            let mut set = [PollFd::new(tap, PollFlags::IN)];
            if poll(&mut set, Some(&again))? > 0 {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "the TAP lets no frame through");
        }
        while readv(tap, &mut [IoSliceMut::new(&mut [0; 2048])]).is_ok() {}
        Ok(())
    }
}

/// The first error of contenders, which return nothing but samples.
#[derive(Default)]
struct Failure(RefCell<Option<Error>>);

impl Failure {
    /// Runs `act`, unless something failed before.
    fn watch(&self, act: impl FnOnce() -> Result<()>) {
        let mut first = self.0.borrow_mut();
        if first.is_none() {
            *first = act().err();
        }
    }

    /// Returns the first error.
    fn into_result(self) -> Result<()> {
        self.0.into_inner().map_or(Ok(()), Err)
    }
}

/// Measures the row `tap`.
///
/// # Errors
///
/// If there can be no TAP.
pub fn run(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for bytes in SIZES {
        figures.push(sent(stage, bytes)?);
        figures.push(received(stage, bytes)?);
    }
    Ok(figures)
}

/// Receives as many frames as were sent. The last ones may still be in flight.
fn receive_all(device: &mut Thin<Sandboxed>) -> Result<()> {
    device.post_buffers(0, BATCH);
    device.ring_receive(0);
    let mut count = device.take_received(0);
    let begun = Instant::now();
    while count < BATCH {
        ensure!(
            begun.elapsed() < PATIENCE,
            "{count} of {BATCH} frames that were sent to the TAP came out of the device"
        );
        std::thread::yield_now();
        count += device.take_received(0);
    }
    Ok(())
}

/// Reads in a bare loop, without a device.
fn read_all(tap: &OwnedFd, bytes: u32, buffer: &mut [u8]) -> Result<()> {
    for count in 0..BATCH {
        let mut header = [0; HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        let begun = Instant::now();
        let read = loop {
            // The last frames may still be in flight.
            if let Ok(read) = readv(tap, &mut parts) {
                break read;
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{count} of {BATCH} frames that were sent to the TAP came out of it"
            );
        };
        ensure!(
            read == HEADER + bytes as usize,
            "a frame of {bytes} bytes came out of the TAP as {read}"
        );
    }
    Ok(())
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
    let failure = Failure::default();
    // Frames are queued before the measurement: a sample is the cost of receiving them.
    let arrive = || failure.watch(|| wire.send(bytes, BATCH));
    let through = || failure.watch(|| receive_all(&mut device));
    let bare = || failure.watch(|| read_all(&bare, bytes, &mut buffer));
    let measured = alternate(
        4 * ROUNDS,
        vec![
            Contender::timed("device", 1, through)
                .per(BATCH.into())
                .after(arrive),
            Contender::timed("bare readv", 1, bare)
                .per(BATCH.into())
                .after(arrive),
        ],
    );
    failure.into_result()?;
    let share = measured[1].over(&measured[0]);
    let figure = Figure::reported(
        "tap",
        format!("receive, {bytes} bytes"),
        "ns/packet",
        measured,
    );
    Ok(figure.must("of the bare loop", share, OF_BARE))
}
