//! Saved states of the shipped device, changed, with a new checksum.

use manatee::component::Component;
use manatee::device::Limits;
use manatee::endpoint::Loopback;
use manatee_conformance::driver::Driver;
use manatee_conformance::guest::Unwired;
use manatee_device::state::FORMAT;
use manatee_kit::machine::Machine;
use minicbor::{Decode, Encode};

use super::{Row, large};
use crate::case::{Case, Victim, has_one_of, is_clean};

pub const ROWS: &[Row] = &[
    // The shipped component is compiled here.
    large(
        "states of any content with the right checksum",
        256,
        component_states,
    ),
    large(
        "states of a whole device, changed anywhere",
        256,
        device_states,
    ),
];

/// The number of changed states that a run tries.
const ROUNDS: usize = 150;

fn victim(component: &Component, case: &Case) -> Victim {
    let limits = Limits {
        deadline: std::time::Duration::from_secs(5),
        ..case.limits()
    };
    Victim::new(component, limits, Box::new(Loopback::new())).expect("the shipped device")
}

/// Starts a driver in the guest, and returns the device's state.
fn state_of_a_running_device(component: &Component, case: &Case) -> (Victim, Vec<u8>) {
    let victim = victim(component, case);
    let machine = Machine {
        device: victim.device.clone(),
        memory: victim.memory.try_clone().expect("a descriptor"),
        interrupts: victim.vectors.listen(),
    };
    let mut machine = Unwired(machine);
    let mut driver = Driver::new(&mut machine);
    driver.start_and_open().expect("the driver starts");
    let state = victim.device.save().expect("it can be saved");
    (victim, state)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end.max(1)
    }

    /// Changes some bytes to others, to nothing, or to a number of 9 bytes.
    fn change(&mut self, state: &mut Vec<u8>) {
        for _ in 0..self.below(4) + 1 {
            let at = self.below(state.len());
            match self.below(4) {
                0 => state[at] = self.next() as u8,
                1 => state.insert(at, self.next() as u8),
                2 => _ = state.remove(at),
                _ => {
                    let number = self.next() >> self.below(64);
                    let number = number.to_be_bytes();
                    state.splice(at..at + 1, [0x1b].into_iter().chain(number));
                }
            }
        }
    }
}

/// Uses a device with an odd state: it may harm only itself.
fn use_it(victim: &Victim) {
    for offset in [0x1000_u64, 0x1400, 0x1800, 0x1ff8] {
        for (round, id) in [1_u64, 2, 3, 4, 5, 9].into_iter().enumerate() {
            victim.write(offset, id | (round as u64 * 0x40) << 32 | 1 << 63);
        }
    }
    victim.device.set_link(0, false);
    let _ = victim.device.inspect();
    let _ = victim.device.save();
}

/// Checks that the device works for a well-behaved driver after a reset.
fn works(victim: &Victim) {
    victim.device.reset();
    victim.be_master();
    let machine = Machine {
        device: victim.device.clone(),
        memory: victim.memory.try_clone().expect("a descriptor"),
        interrupts: victim.vectors.listen(),
    };
    let mut machine = Unwired(machine);
    let mut driver = Driver::new(&mut machine);
    let started = driver.start_and_open().err();
    let failure = victim.device.failure();
    assert!(started.is_none(), "after a reset: {started:?}, {failure:?}");
}

fn tried(component: &Component, case: &Case, state: &[u8], memory: &Victim) {
    let mut victim = victim(component, case);
    // The rings keep their addresses and their content.
    victim.memory = memory.memory.try_clone().expect("a descriptor");
    let file = memory.memory.try_clone().expect("a descriptor");
    let size = crate::case::MEMORY;
    victim
        .device
        .unmap_memory(0, size)
        .expect("memory can be taken away");
    let mapped = victim.device.map_memory(0, size, Some((file, 0)), true);
    mapped.expect("the memory is mapped");
    match victim.device.restore(state) {
        Ok(()) => use_it(&victim),
        Err(error) => {
            let error = error.to_string();
            is_clean(error.lines().next().unwrap_or_default());
            has_one_of(&error, &["state", "component"]);
        }
    }
    works(&victim);
}

fn component_states(case: &Case) {
    let component = Component::embedded().expect("the shipped component");
    let (memory, state) = state_of_a_running_device(&component, case);
    let mut random = Random(7);
    let outer: Outer = minicbor::decode(&state).expect("it is a device's state");
    let content = FORMAT.open(&outer.component).expect("it is a state");
    for _ in 0..ROUNDS {
        let mut content = content.to_vec();
        random.change(&mut content);
        let state = Outer {
            component: FORMAT.seal(&content),
            ..outer.clone()
        };
        tried(&component, case, &encoded(&state), &memory);
    }
}

fn device_states(case: &Case) {
    let component = Component::embedded().expect("the shipped component");
    let (memory, good) = state_of_a_running_device(&component, case);
    let mut random = Random(11);
    for _ in 0..ROUNDS {
        let mut state = good.clone();
        random.change(&mut state);
        tried(&component, case, &state, &memory);
    }
    // Well-formed, but absurd.
    let outer: Outer = minicbor::decode(&good).expect("it is a device's state");
    let absurd = [
        Outer {
            handed_over: vec![(u32::MAX, u32::MAX); 100_000],
            ..outer.clone()
        },
        Outer {
            config: vec![0xff; 256],
            ..outer.clone()
        },
        Outer {
            msix: vec![0xff; outer.msix.len()],
            ..outer.clone()
        },
        Outer {
            config: vec![],
            msix: vec![],
            ..outer.clone()
        },
        Outer {
            component: vec![0; 2 << 20],
            ..outer.clone()
        },
        Outer {
            version: u32::MAX,
            ..outer.clone()
        },
    ];
    for state in absurd {
        tried(&component, case, &encoded(&state), &memory);
    }
}

/// A device's state, which contains that of its component.
#[derive(Clone, Encode, Decode)]
#[cbor(map)]
struct Outer {
    #[n(0)]
    format: String,
    #[n(1)]
    version: u32,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    config: Vec<u8>,
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    msix: Vec<u8>,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    component: Vec<u8>,
    #[n(5)]
    handed_over: Vec<(u32, u32)>,
}

fn encoded(outer: &Outer) -> Vec<u8> {
    minicbor::to_vec(outer).expect("a vector has room")
}
