//! The driver's guest memory: its allocator, and the pages of its queues.

use alloc::vec;
use alloc::vec::Vec;

use mana_wire::queue::PAGE_SIZE;

use crate::bench::{Bench, MEMORY_SIZE};
use crate::failure::{Failure, Outcome};

const PAGE: u64 = PAGE_SIZE as u64;

/// An allocator of zeroed guest memory, which frees none.
#[derive(Clone, Debug)]
pub struct Allocator {
    next: u64,
}

impl Allocator {
    /// Creates an allocator of all guest memory but the page at 0.
    pub fn new() -> Self {
        Self { next: PAGE }
    }

    /// Allocates whole, contiguous pages.
    ///
    /// # Errors
    ///
    /// A failure if the requirement uses more memory than a bench has.
    pub fn pages(&mut self, bench: &mut dyn Bench, count: usize) -> Outcome<u64> {
        let address = self.next.next_multiple_of(PAGE);
        let length = count as u64 * PAGE;
        if address + length > MEMORY_SIZE {
            return Err(Failure::new("the bench's guest memory is used up"));
        }
        self.next = address + length;
        bench.write_memory(address, &vec![0; length as usize]);
        Ok(address)
    }

    /// Allocates contiguous bytes, on a boundary of 64.
    ///
    /// # Errors
    ///
    /// As [`pages`](Self::pages).
    pub fn bytes(&mut self, bench: &mut dyn Bench, length: usize) -> Outcome<u64> {
        let address = self.next.next_multiple_of(64);
        if address + length as u64 > MEMORY_SIZE {
            return Err(Failure::new("the bench's guest memory is used up"));
        }
        self.next = address + length as u64;
        bench.write_memory(address, &vec![0; length]);
        Ok(address)
    }
}

impl Default for Allocator {
    fn default() -> Self {
        Self::new()
    }
}

/// The memory of a queue: pages that are contiguous for the driver, and need
/// not be for the device.
#[derive(Clone, Debug)]
pub struct QueueMemory {
    /// Guest address of each page.
    pub pages: Vec<u64>,
}

impl QueueMemory {
    /// Allocates pages in no particular order: an even one after an odd one.
    ///
    /// # Errors
    ///
    /// As [`Allocator::pages`].
    pub fn scattered(
        memory: &mut Allocator,
        bench: &mut dyn Bench,
        size: u32,
    ) -> Outcome<QueueMemory> {
        let count = size.div_ceil(PAGE_SIZE) as usize;
        let first = memory.pages(bench, count)?;
        let mut pages: Vec<u64> = (0..count as u64).map(|n| first + n * PAGE).collect();
        for pair in pages.chunks_exact_mut(2) {
            pair.reverse();
        }
        Ok(Self { pages })
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u32 {
        self.pages.len() as u32 * PAGE_SIZE
    }

    /// Copies from the queue, wrapping at its end.
    pub fn read(&self, bench: &mut dyn Bench, offset: u32, data: &mut [u8]) {
        self.each_run(offset, data.len(), |address, from, to| {
            bench.read_memory(address, &mut data[from..to]);
        });
    }

    /// Copies to the queue, as [`read`](Self::read).
    pub fn write(&self, bench: &mut dyn Bench, offset: u32, data: &[u8]) {
        self.each_run(offset, data.len(), |address, from, to| {
            bench.write_memory(address, &data[from..to]);
        });
    }

    fn each_run(&self, offset: u32, length: usize, mut act: impl FnMut(u64, usize, usize)) {
        let mut done = 0;
        while done < length {
            let at = (offset as usize + done) % self.size() as usize;
            let within = at % PAGE_SIZE as usize;
            let end = length.min(done + PAGE_SIZE as usize - within);
            let page = self.pages[at / PAGE_SIZE as usize];
            act(page + within as u64, done, end);
            done = end;
        }
    }
}
