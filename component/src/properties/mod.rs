//! Properties of the device's parts, each against a model, with windows and by copies.

use std::vec::Vec;

mod cq;
mod eq;
mod position;
mod regions;
mod ring;
mod smc;
mod wq;

use device_kit::ring::{Layout, Ring};
use manatee_conformance::native::World;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, RngSeed, TestRng, TestRunner};

/// The pages of a queue, out of order.
const PAGES: [u64; 8] = [
    0x9000, 0x3000, 0x4000, 0x1_0000, 0x8000, 0xf_f000, 0x2000, 0x7000,
];

fn world(windows: bool) -> World {
    World {
        with_windows: windows,
        ..World::default()
    }
}

fn ring(world: &mut World, pages: usize, layout: Layout) -> Ring {
    Ring::new(world, PAGES[..pages].to_vec(), layout)
}

/// Returns bytes of a queue's memory from a position on, as its driver sees them.
fn bytes(world: &World, pages: usize, position: u32, length: usize) -> Vec<u8> {
    let byte = |at: usize| {
        let at = (position as usize + at) % (pages * 4096);
        let mut byte = [0];
        let address = PAGES[at / 4096] + (at % 4096) as u64;
        world.memory.read(address, &mut byte).unwrap();
        byte[0]
    };
    (0..length).map(byte).collect()
}

/// Writes bytes to a queue's memory, as its driver does.
fn put(world: &World, pages: usize, position: u32, data: &[u8]) {
    for (index, byte) in data.iter().enumerate() {
        let at = (position as usize + index) % (pages * 4096);
        let address = PAGES[at / 4096] + (at % 4096) as u64;
        world.memory.write(address, &[*byte]).unwrap();
    }
}

/// Tests a property with the same cases every time, unless `PROPTEST_RNG_SEED` sets
/// another seed; `PROPTEST_CASES` sets their number.
fn check<S: Strategy>(
    cases: u32,
    strategy: S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig {
        cases: if asked { default.cases } else { cases },
        failure_persistence: None,
        ..default
    };
    let mut runner = match config.rng_seed {
        RngSeed::Fixed(_) => TestRunner::new(config),
        RngSeed::Random => {
            let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            TestRunner::new_with_rng(config, rng)
        }
    };
    if let Err(error) = runner.run(&strategy, property) {
        panic!("{error}");
    }
}
