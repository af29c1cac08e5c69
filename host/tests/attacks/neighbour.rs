//! A device in the same process, which continuously moves packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use manatee::device::Limits;
use manatee::endpoint::Loopback;

use crate::case::Victim;
use crate::hostile::{ANSWER, Hostile, OWN, VERSIONS};

/// The number of packets that it must move after the attack.
const PACKETS: u64 = 64;
/// Far longer than those packets take.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A thread that drives a device of its own.
pub struct Neighbour {
    moved: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The pause after each packet, which lets the attack run on few processors.
const PAUSE: Duration = Duration::from_millis(1);

impl Neighbour {
    /// Starts one, and waits until it moves packets.
    pub fn start() -> Self {
        let component = component().load().expect("the neighbour's component loads");
        let limits = Limits {
            // It shares the processors with the attack.
            deadline: Duration::from_secs(30),
            ..Limits::default()
        };
        let device = Victim::new(&component, limits, Box::new(Loopback::new()));
        let device = device.expect("the neighbour is a device");
        let (moved, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let thread = thread::spawn({
            let (moved, stop) = (moved.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    device.poke();
                    assert!(device.device.failure().is_none());
                    moved.store(device.read(0), Ordering::SeqCst);
                    thread::park_timeout(PAUSE);
                }
            }
        });
        let neighbour = Self {
            moved,
            stop,
            thread,
        };
        neighbour.moves();
        neighbour
    }

    fn moves(&self) {
        let (begun, before) = (Instant::now(), self.moved.load(Ordering::SeqCst));
        while self.moved.load(Ordering::SeqCst) < before + PACKETS {
            assert!(begun.elapsed() < WATCHDOG, "the neighbour moves no packets");
            assert!(!self.thread.is_finished(), "the neighbour failed");
            thread::yield_now();
        }
    }

    /// Checks that it still moves packets, and ends it.
    pub fn works_on(self) {
        self.moves();
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the neighbour has no failure");
    }
}

/// Returns a component that posts a buffer, transmits a packet to itself, and counts the packets
/// that arrive.
fn component() -> Hostile {
    let (packet, buffer, from, to) = (OWN, OWN + 32, OWN + 64, OWN + 96);
    Hostile::new(VERSIONS[0])
        .fields(format!(
            "(global $count (mut i64) (i64.const 0))
             (data (i32.const {packet}) \"\\07\\00\\00\\00\\01\\00\")
             (data (i32.const {buffer}) \"\\09\\00\\00\\00\\01\\00\")
             (data (i32.const {from}) \"\\00\\10\\00\\00\\00\\00\\00\\00\\40\")
             (data (i32.const {to}) \"\\00\\20\\00\\00\\00\\00\\00\\00\\00\\08\")"
        ))
        .export(
            "write-register",
            format!(
                "i32.const 0 i32.const 0 i32.const {buffer} i32.const 1
                 i32.const {to} i32.const 1 call $post-receive drop
                 i32.const 0 i32.const 0 i32.const {packet} i32.const 1
                 i32.const {from} i32.const 1 i32.const {ANSWER} call $transmit
                 i32.const 0"
            ),
        )
        .export(
            "received",
            "global.get $count local.get 3 i64.extend_i32_u i64.add global.set $count
             i32.const 0",
        )
        .export("read-register", "global.get $count")
}
