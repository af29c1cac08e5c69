//! The driver's side, as Linux writes it.
//!
//! [`Driver`] does what `mana.ko` does, in the same order, and lets a
//! requirement do anything else: write any register, ring any doorbell, post
//! any bytes.

use alloc::format;
use alloc::vec::Vec;

use mana_wire::queue::{DimDoorbell, RingDoorbell, WqDoorbell, doorbell};

use crate::bench::Bench;
use crate::failure::{Failure, Outcome};
use memory::{Allocator, QueueMemory};

pub mod entry;
pub mod hwc;
pub mod memory;
pub mod message;
pub mod nic;
pub mod pairs;
pub mod registers;
pub mod requests;
pub mod ring;
pub mod shm;
pub mod traffic;
pub mod wqe;

/// Protection domain that registering the NIC returns, as this driver checks.
pub const PDID: u32 = 1;
/// Memory key that it returns, which covers all of guest memory.
pub const MEM_KEY: u32 = 1;
/// Doorbell page that it returns.
pub const DOORBELL_PAGE: u32 = 0;

/// A driver, and the device that it drives.
pub struct Driver<'a> {
    /// The device and the world around it.
    pub bench: &'a mut dyn Bench,
    /// Guest memory that is not used yet.
    pub memory: Allocator,
    /// The hardware channel, once there is one.
    pub hwc: Option<hwc::Hwc>,
    registers: Option<registers::RegisterMap>,
    interrupts: Vec<u16>,
}

impl<'a> Driver<'a> {
    /// Creates a driver that has done nothing yet.
    pub fn new(bench: &'a mut dyn Bench) -> Self {
        Self {
            bench,
            memory: Allocator::new(),
            hwc: None,
            registers: None,
            interrupts: Vec::new(),
        }
    }

    /// Returns the register map, read once.
    pub fn registers(&mut self) -> registers::RegisterMap {
        let bench = &mut *self.bench;
        *self
            .registers
            .get_or_insert_with(|| registers::RegisterMap::read(bench))
    }

    /// Allocates contiguous pages, zeroed.
    ///
    /// # Errors
    ///
    /// A failure if guest memory is used up.
    pub fn pages(&mut self, count: usize) -> Outcome<u64> {
        self.memory.pages(self.bench, count)
    }

    /// Allocates memory with this content.
    ///
    /// # Errors
    ///
    /// A failure if guest memory is used up.
    pub fn place(&mut self, content: &[u8]) -> Outcome<u64> {
        let address = self.memory.bytes(self.bench, content.len())?;
        self.bench.write_memory(address, content);
        Ok(address)
    }

    /// Reads guest memory at an address.
    pub fn read(&mut self, address: u64, length: usize) -> Vec<u8> {
        let mut data = alloc::vec![0; length];
        self.bench.read_memory(address, &mut data);
        data
    }

    /// Allocates zeroed memory for a queue, its pages out of order.
    ///
    /// # Errors
    ///
    /// A failure if guest memory is used up.
    pub fn queue_memory(&mut self, size: u32) -> Outcome<QueueMemory> {
        QueueMemory::scattered(&mut self.memory, self.bench, size)
    }

    /// Writes 8 bytes into the doorbell page.
    pub fn doorbell(&mut self, offset: u64, bits: u64) {
        let base = self.registers().doorbells;
        self.bench.write_register(base + offset, 8, bits);
    }

    /// Rings a work queue's doorbell with its producer.
    pub fn ring_wq(&mut self, offset: u64, id: u32, tail: u32) {
        let bits = WqDoorbell::new().with_id(id).with_tail(tail);
        self.doorbell(offset, bits.into_bits());
    }

    /// Rings a completion queue's doorbell with its consumer.
    pub fn ring_cq(&mut self, id: u32, tail: u32, arm: bool) {
        let bits = RingDoorbell::new().with_id(id).with_tail(tail);
        self.doorbell(doorbell::CQ, bits.with_arm(arm).into_bits());
    }

    /// Rings an event queue's doorbell with its consumer.
    pub fn ring_eq(&mut self, id: u32, tail: u32, arm: bool) {
        let bits = RingDoorbell::new().with_id(id).with_tail(tail);
        self.doorbell(doorbell::EQ, bits.with_arm(arm).into_bits());
    }

    /// Rings the doorbell that sets a completion queue's moderation (`mana_gd_ring_dim`); a
    /// limit that is None stays.
    pub fn ring_dim(&mut self, id: u32, completions: Option<u8>, usec: Option<u16>) {
        let bits = DimDoorbell::new()
            .with_id(id)
            .with_are_completions_valid(completions.is_some())
            .with_completions(completions.unwrap_or_default())
            .with_is_usec_valid(usec.is_some())
            .with_usec(usec.unwrap_or_default());
        self.doorbell(doorbell::DIM, bits.into_bits());
    }

    /// Returns how many times a vector was raised since the last call.
    pub fn take_interrupts(&mut self, vector: u16) -> usize {
        self.interrupts.extend(self.bench.take_interrupts());
        let before = self.interrupts.len();
        self.interrupts.retain(|raised| *raised != vector);
        before - self.interrupts.len()
    }

    /// Returns every raised vector that was not returned yet.
    pub fn take_all_interrupts(&mut self) -> Vec<u16> {
        self.interrupts.extend(self.bench.take_interrupts());
        core::mem::take(&mut self.interrupts)
    }

    /// Checks that a vector was raised exactly this often since the last query.
    ///
    /// # Errors
    ///
    /// A failure if it was not.
    pub fn expect_interrupts(&mut self, vector: u16, expected: usize) -> Outcome {
        let found = self.take_interrupts(vector);
        crate::failure::check_eq(format!("interrupts of vector {vector}"), found, expected)
    }

    /// Returns a value in the state that the device shows for inspection. None if it
    /// shows no such value.
    ///
    /// # Errors
    ///
    /// A failure if the state is not JSON.
    pub fn inspect(&mut self, pointer: &str) -> Outcome<Option<serde_json::Value>> {
        let text = self.bench.inspect();
        let tree: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("the device's state is no JSON: {error}")))?;
        Ok(tree.pointer(pointer).cloned())
    }
}
