//! A native device that fails when a fuse blows, and its recovery as a host does it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use device_kit::Adapter;
use device_kit::platform::{
    Features, LinkStatistics, Observations, RegisterWrite, RxFlags, TxStatus,
};
use mana_wire::registers::DOORBELLS;
use manatee_conformance::bench::{Bench, Steering, Transmitted, Workshop};
use manatee_conformance::native::{NativeBench, NativeWorkshop, Poison, World, configured};
use manatee_device::Device;

/// Queue pairs of its port.
const QUEUES: u16 = 4;
/// Failures in a row that count as endless.
const MAX_FAILURES: usize = 10;

/// Steps until the device fails, for a test that has handed over the bench.
#[derive(Clone, Default)]
pub struct Fuse(Rc<Cell<Option<u32>>>);

impl Fuse {
    /// Lets the device fail after this many entries into and returns from the platform.
    pub fn light(&self, steps: u32) {
        self.0.set(Some(steps));
    }
}

/// A device that fails and is recovered.
pub struct Mortal {
    bench: NativeBench,
    fuse: Fuse,
    checkpoint: Vec<u8>,
    changes: u64,
    doorbells: Vec<RegisterWrite>,
    skip: Vec<u64>,
    failures: usize,
    in_hand: usize,
}

impl Mortal {
    /// Creates a device with one port.
    pub fn new(windows: bool) -> Self {
        let workshop = NativeWorkshop {
            windows,
            queues: QUEUES,
            offered: Features::all(),
            ..NativeWorkshop::default()
        };
        let bench = workshop.bench(1);
        let checkpoint = bench.device.save();
        Self {
            bench,
            fuse: Fuse::default(),
            checkpoint,
            changes: 0,
            doorbells: Vec::new(),
            skip: Vec::new(),
            failures: 0,
            in_hand: 0,
        }
    }

    /// Returns the fuse that makes it fail.
    pub fn fuse(&self) -> Fuse {
        self.fuse.clone()
    }

    /// Makes it fail on `poison` each time.
    pub fn poison(&mut self, poison: Poison) {
        self.bench.device.platform().poison = Some(poison);
    }

    /// Returns how often it failed.
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// Returns how many received packets it was processing when it failed.
    pub fn in_hand(&self) -> usize {
        self.in_hand
    }

    /// Calls `act` with the device, and then services it; recovers it as often as it
    /// fails.
    fn attempt<T: Default>(
        &mut self,
        in_hand: usize,
        act: impl FnOnce(&mut NativeBench) -> T,
    ) -> T {
        self.bench.device.platform().fuse = self.fuse.0.get();
        let result = catch_unwind(AssertUnwindSafe(|| act(&mut self.bench)));
        if result.is_err() {
            self.in_hand += in_hand;
        }
        let mut failed = result.is_err();
        let result = result.unwrap_or_default();
        let begun = self.failures;
        loop {
            if failed {
                self.failures += 1;
                assert!(
                    self.failures - begun < MAX_FAILURES,
                    "it fails again and again"
                );
                self.bring_back();
            }
            let settled = catch_unwind(AssertUnwindSafe(|| self.bench.settle(failed)));
            failed = settled.is_err();
            if !failed {
                break;
            }
        }
        let world = self.bench.device.platform();
        self.fuse.0.set(world.fuse.take());
        if core::mem::replace(&mut self.changes, world.changes) != world.changes {
            // The new checkpoint covers every doorbell so far.
            self.checkpoint = self.bench.device.save();
            self.doorbells.clear();
        }
        result
    }

    fn bring_back(&mut self) {
        let dead = core::mem::replace(&mut self.bench.device, Device::new(World::default()));
        let mut world = dead.into_platform();
        world.fuse = None;
        self.skip.extend(world.attempted.take());
        let seen = Observations {
            doorbells: self.doorbells.clone(),
            transmitted: world.take_back(),
            skip: self.skip.clone(),
        };
        self.bench.device = configured(world);
        let recovered = self.bench.device.recover(&self.checkpoint, &seen);
        recovered.expect("a device recovers from its own state");
    }
}

impl Bench for Mortal {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.bench.read_register(offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        if width == 8 && offset >= DOORBELLS {
            let key = |w: &RegisterWrite| (w.offset, w.value & 0xff_ffff);
            let write = RegisterWrite {
                bar: 0,
                offset,
                value,
            };
            self.doorbells.retain(|other| key(other) != key(&write));
            self.doorbells.push(write);
        }
        self.attempt(0, |bench| bench.write_register(offset, width, value));
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.bench.read_memory(address, data);
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.bench.write_memory(address, data);
    }

    fn revoke_memory(&mut self, address: u64, length: u64) {
        self.attempt(0, |bench| bench.revoke_memory(address, length));
    }

    fn give_memory_back(&mut self) {
        self.attempt(0, |bench| bench.give_memory_back());
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.bench.take_interrupts()
    }

    fn take_delayed(&mut self) -> Vec<(u16, u32)> {
        self.bench.take_delayed()
    }

    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted> {
        self.bench.take_transmitted(port)
    }

    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]) {
        self.bench.plan_transmits(port, statuses);
    }

    fn on_queue(&mut self, queue: u32) {
        self.bench.on_queue(queue);
    }

    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]) {
        self.attempt(0, |bench| bench.finish_transmit(port, statuses));
    }

    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize {
        self.attempt(frames.len(), |bench| bench.receive(port, frames))
    }

    fn posted_buffers(&mut self, port: u32) -> usize {
        self.bench.posted_buffers(port)
    }

    fn limit_buffers(&mut self, port: u32, most: usize) {
        self.bench.limit_buffers(port, most);
    }

    fn pending_transmits(&mut self, port: u32) -> usize {
        self.bench.pending_transmits(port)
    }

    fn steering(&mut self, port: u32) -> Option<Steering> {
        self.bench.steering(port)
    }

    fn rate_limit(&mut self, port: u32) -> Option<u32> {
        self.bench.rate_limit(port)
    }

    fn count_link(&mut self, port: u32, counted: LinkStatistics) {
        self.bench.count_link(port, counted);
    }

    fn set_link(&mut self, port: u32, up: bool) {
        self.attempt(0, |bench| bench.set_link(port, up));
    }

    fn reset(&mut self) {
        self.bench.reset();
    }

    fn inspect(&mut self) -> String {
        self.bench.inspect()
    }
}
