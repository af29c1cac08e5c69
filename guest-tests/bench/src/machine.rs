//! A machine with the device in it, sandboxed or native, for a driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use manatee::interrupt::VectorSink;
use manatee_conformance::guest::Guest;

use crate::ram::Ram;

/// The device and the guest's memory around it.
pub trait Machine {
    /// Writes 1, 2, 4 or 8 bytes of BAR 0, and lets the device continue until it
    /// has no work left.
    fn write_register(&mut self, offset: u64, width: u8, value: u64);

    /// Reads 1, 2, 4 or 8 bytes of BAR 0.
    fn read_register(&mut self, offset: u64, width: u8) -> u64;

    /// Returns guest memory.
    fn ram(&self) -> &Ram;

    /// Returns its interrupt controller.
    fn interrupts(&self) -> &InterruptController;

    /// Returns the vectors raised since the last call, while the device is brought up. A machine
    /// whose device is elsewhere waits for one.
    fn take_interrupts(&mut self) -> Vec<u16> {
        let raised = self.interrupts().take();
        (0..64).filter(|vector| raised >> vector & 1 != 0).collect()
    }
}

/// An interrupt controller for the first 64 vectors, which records the time of the last
/// interrupt.
#[derive(Clone, Debug)]
pub struct InterruptController {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// A bit for each vector.
    raised: AtomicU64,
    /// Nanoseconds since `begun`.
    last: AtomicU64,
}

impl InterruptController {
    /// Creates a controller without interrupts.
    pub fn new() -> Self {
        let shared = Shared {
            begun: Instant::now(),
            raised: AtomicU64::new(0),
            last: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Returns the vectors raised since the last call, one bit for each.
    pub fn take(&self) -> u64 {
        self.shared.raised.swap(0, Ordering::Relaxed)
    }

    /// Returns the nanoseconds from `then` to the last interrupt.
    pub fn since(&self, then: Instant) -> u64 {
        let then = then.duration_since(self.shared.begun).as_nanos() as u64;
        self.shared.last.load(Ordering::Relaxed) - then
    }

    /// Raises a vector.
    pub fn raise(&self, vector: u16) {
        let now = self.shared.begun.elapsed().as_nanos() as u64;
        self.shared.last.store(now, Ordering::Relaxed);
        self.shared
            .raised
            .fetch_or(1 << (vector % 64), Ordering::Relaxed);
    }
}

impl VectorSink for InterruptController {
    fn raise(&self, vector: u16) {
        InterruptController::raise(self, vector);
    }
}

/// A machine for the conformance suite's driver, which brings the device up.
pub struct BringUp<'a, M>(pub &'a mut M);

impl<M: Machine> Guest for BringUp<'_, M> {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.0.read_register(offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        self.0.write_register(offset, width, value);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.0.ram().read(address, data);
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.0.ram().write(address, data);
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.0.take_interrupts()
    }
}
