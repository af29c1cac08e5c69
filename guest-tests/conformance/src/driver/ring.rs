//! Queues from the driver's side: those it consumes, and those it posts to.

use alloc::format;
use alloc::vec::Vec;

use mana_wire::queue::{CQE_SIZE, EQE_SIZE, OWNER_BITS, WQE_UNIT, doorbell};

use super::Driver;
use super::entry::{Completion, Event};
use super::memory::QueueMemory;
use super::wqe::Wqe;
use crate::bench::Bench;
use crate::failure::{Failure, Outcome};

/// A ring of entries with owner bits, from the driver's side.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Memory of the entries.
    pub memory: QueueMemory,
    entry: u32,
    /// Entries consumed, from the first lap on, which has owner 1; wraps at
    /// 2^32 (`struct gdma_queue::head`).
    pub head: u32,
}

impl Ring {
    fn new(memory: QueueMemory, entry: u32) -> Self {
        let head = memory.size() / entry;
        Self {
            memory,
            entry,
            head,
        }
    }

    /// Returns the number of entries.
    pub fn entries(&self) -> u32 {
        self.memory.size() / self.entry
    }

    /// Returns the consumer for a doorbell: entries consumed, modulo 8 laps.
    pub fn tail(&self) -> u32 {
        self.head & ((self.entries() << OWNER_BITS) - 1)
    }

    /// Returns the next entry, if there is one (`mana_gd_read_cqe`,
    /// `mana_gd_process_eq_events`): if its owner bits are those of this lap. There is
    /// none if they are those of the last lap, and anything else is an overflow.
    fn next<const N: usize>(&mut self, bench: &mut dyn Bench) -> Outcome<Option<[u8; N]>> {
        let lap = self.head / self.entries();
        let index = self.head % self.entries();
        let mut bytes = [0; N];
        self.memory.read(bench, index * self.entry, &mut bytes);
        let owner = u32::from(bytes[N - 1] >> (8 - OWNER_BITS));
        let mask = (1 << OWNER_BITS) - 1;
        if owner == lap.wrapping_sub(1) & mask {
            return Ok(None);
        }
        if owner != lap & mask {
            return Err(Failure::new(format!(
                "entry {index} of {} has owner bits {owner}; the driver is in lap {lap} and takes that for an overflow",
                self.entries()
            )));
        }
        self.head = self.head.wrapping_add(1);
        Ok(Some(bytes))
    }
}

/// An event queue.
#[derive(Clone, Debug)]
pub struct Eq {
    /// Its id.
    pub id: u32,
    /// Its MSI-X vector.
    pub vector: u16,
    /// Its entries.
    pub ring: Ring,
}

impl Eq {
    /// Creates a queue in zeroed memory.
    pub fn new(id: u32, vector: u16, memory: QueueMemory) -> Self {
        Self {
            id,
            vector,
            ring: Ring::new(memory, EQE_SIZE),
        }
    }

    /// Returns the next event, if there is one.
    ///
    /// # Errors
    ///
    /// A failure if the queue has overflowed.
    pub fn next(&mut self, driver: &mut Driver<'_>) -> Outcome<Option<Event>> {
        Ok(self.ring.next(driver.bench)?.map(Event::from_bytes))
    }

    /// Consumes all events.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn drain(&mut self, driver: &mut Driver<'_>) -> Outcome<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(event) = self.next(driver)? {
            events.push(event);
        }
        Ok(events)
    }

    /// Rings the doorbell, with or without asking for an interrupt.
    pub fn ring(&self, driver: &mut Driver<'_>, arm: bool) {
        driver.ring_eq(self.id, self.ring.tail(), arm);
    }
}

/// A completion queue.
#[derive(Clone, Debug)]
pub struct Cq {
    /// Its id.
    pub id: u32,
    /// Its entries.
    pub ring: Ring,
}

impl Cq {
    /// Creates a queue in zeroed memory.
    pub fn new(id: u32, memory: QueueMemory) -> Self {
        Self {
            id,
            ring: Ring::new(memory, CQE_SIZE),
        }
    }

    /// Returns the next completion, if there is one.
    ///
    /// # Errors
    ///
    /// A failure if the queue has overflowed.
    pub fn next(&mut self, driver: &mut Driver<'_>) -> Outcome<Option<Completion>> {
        let entry = self.ring.next(driver.bench)?;
        Ok(entry.map(|bytes| Completion::from_bytes(&bytes)))
    }

    /// Returns the next completion, which must be there.
    ///
    /// # Errors
    ///
    /// A failure if it is not, or the queue has overflowed.
    pub fn expect(&mut self, driver: &mut Driver<'_>) -> Outcome<Completion> {
        let id = self.id;
        self.next(driver)?
            .ok_or_else(|| Failure::new(format!("no completion on completion queue {id}")))
    }

    /// Consumes all completions.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn drain(&mut self, driver: &mut Driver<'_>) -> Outcome<Vec<Completion>> {
        let mut completions = Vec::new();
        while let Some(completion) = self.next(driver)? {
            completions.push(completion);
        }
        Ok(completions)
    }

    /// Checks that there is no completion.
    ///
    /// # Errors
    ///
    /// A failure if there is one, or the queue has overflowed.
    pub fn expect_none(&mut self, driver: &mut Driver<'_>) -> Outcome {
        match self.next(driver)? {
            None => Ok(()),
            Some(completion) => Err(Failure::new(format!(
                "expected no completion, found {completion:?}"
            ))),
        }
    }

    /// Rings the doorbell, with or without asking for an event.
    pub fn ring(&self, driver: &mut Driver<'_>, arm: bool) {
        driver.ring_cq(self.id, self.ring.tail(), arm);
    }
}

/// A send or receive queue.
#[derive(Clone, Debug)]
pub struct Wq {
    /// Its id.
    pub id: u32,
    /// Offset of its doorbell.
    pub doorbell: u64,
    /// Memory of the entries.
    pub memory: QueueMemory,
    /// Bytes posted, modulo 2^32.
    pub head: u32,
}

impl Wq {
    /// Returns a send queue.
    pub fn send(id: u32, memory: QueueMemory) -> Self {
        Self {
            id,
            doorbell: doorbell::SQ,
            memory,
            head: 0,
        }
    }

    /// Returns a receive queue.
    pub fn receive(id: u32, memory: QueueMemory) -> Self {
        Self {
            id,
            doorbell: doorbell::RQ,
            memory,
            head: 0,
        }
    }

    /// Writes a WQE, without a doorbell. Returns its offset in the queue.
    pub fn write(&mut self, driver: &mut Driver<'_>, wqe: &Wqe) -> u32 {
        self.write_bytes(driver, &wqe.to_bytes())
    }

    /// Writes a WQE of any bytes, without a doorbell, padded with zeros to whole units.
    /// Returns its offset in the queue.
    pub fn write_bytes(&mut self, driver: &mut Driver<'_>, bytes: &[u8]) -> u32 {
        let offset = self.head % self.memory.size();
        self.memory.write(driver.bench, offset, bytes);
        let length = (bytes.len() as u32).next_multiple_of(WQE_UNIT);
        self.head = self.head.wrapping_add(length);
        offset
    }

    /// Rings the doorbell.
    pub fn ring(&self, driver: &mut Driver<'_>) {
        driver.ring_wq(self.doorbell, self.id, self.head);
    }

    /// Writes a WQE and rings the doorbell. Returns its offset.
    pub fn post(&mut self, driver: &mut Driver<'_>, wqe: &Wqe) -> u32 {
        let offset = self.write(driver, wqe);
        self.ring(driver);
        offset
    }
}
