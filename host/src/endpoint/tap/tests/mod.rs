//! Real TAP interfaces, in a network namespace of each test's own.
//!
//! The interface under test is a port of a bridge; the bridge's other port is
//! a second TAP without offloads. So a frame that arrives there has all of the
//! kernel's offloads (checksums, segments) carried out. Nothing leaves the namespace.

mod adopt;
mod attach;
mod kernel;
mod policy;
mod queues;
mod receive;
mod transmit;

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::UnshareFlags;

use super::{Tap, TapError, TapQueue, ioctl};
use crate::endpoint::testing::{Guest, plain};
use crate::endpoint::vnet::{VNET_HEADER_BYTES, VnetHeader};
use crate::endpoint::{Queue, RxPacket, TxStatus};
use crate::memory::Calls;

/// The interface under test.
const NAME: &str = "tap-test";
const PEER: &str = "tap-peer";
/// Longer than any of this takes; reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(10);

/// Held while a child process is started. Until it executes its program, a
/// child has copies of all descriptors, which would keep an interface open after
/// a test has closed it.
static CHILDREN: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether [`open`] lets calls share system calls.
    static BATCHED: Cell<bool> = const { Cell::new(true) };
}

/// Opens the interface under test, with or without batched system calls.
fn open() -> Result<Tap, TapError> {
    open_queues(Some(1))
}

/// Opens it with this many queues.
fn open_queues(queues: Option<u16>) -> Result<Tap, TapError> {
    let batched = BATCHED.get();
    Tap::open_with(NAME, queues, || match batched {
        // If the kernel forbids io_uring, only the other run is possible.
        true => Calls::batched().unwrap_or_else(|_| Calls::one_by_one()),
        false => Calls::one_by_one(),
    })
}

/// Returns the only queue of an interface.
fn only(tap: &mut Tap) -> TapQueue {
    assert_eq!(tap.queues.len(), 1);
    tap.queues.remove(0)
}

/// Runs a test in network namespaces of its own, if that is permitted: once
/// with calls that share system calls, and once without.
fn in_namespace(test: impl Fn() + Sync) {
    for batched in [true, false] {
        run(&test, batched);
    }
}

fn run(test: &(impl Fn() + Sync), batched: bool) {
    let caller = std::thread::current();
    let name = caller.name().unwrap_or("a TAP test");
    let isolated = || {
        BATCHED.set(batched);
        // The deprecated function is the safe one; its successor is unsafe
        // because of another flag.
        #[expect(deprecated)]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNET);
        match unshared {
            Ok(()) => test(),
            Err(error) => skip(name, error),
        }
    };
    // A namespace applies to one thread.
    let outcome = std::thread::scope(|scope| scope.spawn(isolated).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Prints that a test was skipped, bypassing the harness, which hides the output of passing tests.
fn skip(test: &str, error: rustix::io::Errno) {
    let line = format!("skipped {test}: no network namespace of its own ({error}); run as root\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs `ip`, from iproute2.
fn ip(arguments: &str) {
    let _child = CHILDREN.lock();
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the TAP tests need `ip`: apt-get install iproute2");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// Keeps the kernel from sending packets by itself.
fn keep_quiet() {
    for knob in [
        "ipv6/conf/default/disable_ipv6",
        "ipv6/conf/all/disable_ipv6",
    ] {
        // An error means that there is no IPv6 to turn off.
        let _ = std::fs::write(format!("/proc/sys/net/{knob}"), "1");
    }
    // An error means that bridges do not read IP headers anyway.
    let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
    let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0");
}

/// The far end of the bridge.
#[derive(Debug)]
struct Peer {
    fd: OwnedFd,
}

impl Peer {
    fn open() -> Self {
        let fd = super::attach::attach(PEER, Some(1)).unwrap().fds.remove(0);
        ioctl::set_offload(fd.as_fd(), 0).unwrap();
        Self { fd }
    }

    /// Sends a frame with its virtio-net header.
    fn send_with(&self, vnet: VnetHeader, frame: &[u8]) {
        let bytes = [&vnet.to_bytes(), frame].concat();
        assert_eq!(rustix::io::write(&self.fd, &bytes).unwrap(), bytes.len());
    }

    fn send(&self, frame: &[u8]) {
        self.send_with(VnetHeader::default(), frame);
    }

    /// Returns the next frame that is not a probe.
    fn receive(&self) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        loop {
            let frame = self.poll(end).expect("no frame came");
            if !is_probe(&frame) {
                return frame;
            }
        }
    }

    fn poll(&self, end: Instant) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 70_000];
        loop {
            if let Ok(length) = rustix::io::read(&self.fd, &mut bytes) {
                return Some(bytes[VNET_HEADER_BYTES..length].to_vec());
            }
            if !wait_readable(self.fd.as_fd(), end) {
                return None;
            }
        }
    }
}

/// A guest on one side of a bridge, and a peer on the other.
struct Wire {
    endpoint: Tap,
    tap: TapQueue,
    guest: Guest,
    peer: Peer,
}

impl Wire {
    /// Creates two TAPs with a bridge between them, over which frames already pass.
    fn new() -> Self {
        keep_quiet();
        let mut endpoint = open().unwrap();
        let tap = only(&mut endpoint);
        let peer = Peer::open();
        ip("link add bridge type bridge mcast_snooping 0 stp_state 0 forward_delay 0");
        for port in [NAME, PEER] {
            ip(&format!("link set {port} master bridge up"));
        }
        ip("link set bridge up");
        let guest = Guest::new();
        let mut wire = Self {
            endpoint,
            tap,
            guest,
            peer,
        };
        wire.wait_until_frames_pass();
        wire
    }

    /// Waits until a port forwards: once the kernel has noticed its carrier, a little later.
    fn wait_until_frames_pass(&mut self) {
        let end = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < end, "the bridge does not forward");
            self.guest.send(&mut self.tap, &probe(), plain());
            let soon = Instant::now() + Duration::from_millis(5);
            if self.peer.poll(soon).is_some() {
                break;
            }
        }
        self.peer.send(&probe());
        self.guest.post();
        while !is_probe(&self.receive_frame()) {
            self.guest.post();
        }
    }

    fn send(&mut self, frame: &[u8], packet: crate::endpoint::TxPacket) -> TxStatus {
        self.guest.send(&mut self.tap, frame, packet)
    }

    /// Receives a packet into the posted buffers.
    fn receive(&mut self) -> RxPacket {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(packet) = self.guest.done.received.pop() {
                assert!(self.guest.done.received.is_empty(), "more than one came");
                return packet;
            }
            self.tap.receive(&mut self.guest.io());
            if self.guest.done.received.is_empty() {
                let readable = wait_readable(self.tap.fd.as_fd(), end);
                assert!(readable, "no frame came");
            }
        }
    }

    fn receive_frame(&mut self) -> Vec<u8> {
        let packet = self.receive();
        self.guest.content(&packet)
    }

    /// Waits until the interface's queue holds a frame.
    fn wait(&self) {
        let end = Instant::now() + DEADLINE;
        assert!(wait_readable(self.tap.fd.as_fd(), end), "no frame came");
    }
}

/// Returns a frame of an EtherType for experiments (IEEE 802, local experimental 1).
fn probe() -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn is_probe(frame: &[u8]) -> bool {
    frame[12..14] == [0x88, 0xb5]
}

fn wait_readable(fd: std::os::fd::BorrowedFd<'_>, end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).unwrap();
    let mut set = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut set, Some(&left)).unwrap() > 0
}
