//! The cost of guest memory as the number of its regions grows.

use std::hint::black_box;

use anyhow::Result;
use manatee::memory::GuestMemory;

use crate::ram::Ram;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, alternate};

const ROUNDS: usize = 101;
const PAGE: u64 = 4096;
/// Numbers of regions of a VMM without an IOMMU, and of a guest with one.
const COUNTS: [u64; 4] = [1, 8, 1000, 60_000];
/// Look-ups and changes in a sample.
const LOOKUPS: usize = 1024;
const CHANGES: u64 = 16;
/// The distance of regions, longer than they are, so that none are contiguous.
const STEP: u64 = 2 * PAGE;

/// Memory of a number of regions, all in one file, and addresses in random order.
struct Regions {
    ram: Ram,
    memory: GuestMemory,
    count: u64,
    addresses: Vec<u64>,
}

impl Regions {
    fn new(count: u64) -> Result<Self> {
        let ram = Ram::new(count * PAGE)?;
        let mut memory = GuestMemory::new();
        for region in 0..count {
            let file = ram.share()?;
            memory.map(region * STEP, PAGE, file, region * PAGE, true)?;
        }
        // A simple generator (Knuth's, of 64 bits).
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let address = |_| next() % count * STEP + next() % (PAGE / 8) * 8;
        let addresses = (0..LOOKUPS).map(address).collect();
        Ok(Self {
            ram,
            memory,
            count,
            addresses,
        })
    }

    fn name(&self) -> String {
        match self.count {
            1 => "1 region".to_owned(),
            count => format!("{count} regions"),
        }
    }

    /// Loads 8 bytes from each of the addresses.
    fn look_up(&self) {
        for address in &self.addresses {
            black_box(self.memory.load(black_box(*address)));
        }
    }

    /// Maps pages among the regions, and unmaps them.
    fn change(&mut self) {
        for index in 0..CHANGES {
            let at = index * self.count / CHANGES * STEP + PAGE;
            let file = self.ram.share().expect("a descriptor");
            let mapped = self.memory.map(at, PAGE, file, 0, true);
            mapped.expect("a page between regions");
            self.memory.unmap(at, PAGE).expect("it was mapped");
        }
    }
}

/// Measures the row `memory`.
///
/// # Errors
///
/// If guest memory can't be made.
pub fn run() -> Result<Vec<Figure>> {
    let regions = COUNTS.map(Regions::new).into_iter();
    let mut regions: Vec<Regions> = regions.collect::<Result<_>>()?;
    let contenders = regions.iter().map(|regions| {
        let look_up = Contender::timed(&regions.name(), 16, || regions.look_up());
        look_up.per(LOOKUPS as f64)
    });
    let measured = alternate(ROUNDS, contenders.collect());
    let growth = measured[3].over(&measured[0]);
    let look_ups = Figure::reported("memory", "a look-up, by regions", "ns", measured)
        .says("60000 regions / 1 region", growth);
    let contenders = regions.iter_mut().map(|regions| {
        let change = Contender::timed(&regions.name(), 1, || regions.change());
        change.per(CHANGES as f64)
    });
    let measured = alternate(ROUNDS, contenders.collect());
    let growth = measured[3].over(&measured[1]);
    let changes = Figure::reported("memory", "a map and an unmap, by regions", "ns", measured)
        .must("60000 regions / 8 regions", growth, Bound::AtMost(4.0));
    Ok(vec![look_ups, changes])
}
