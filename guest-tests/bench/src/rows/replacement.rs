//! How long the guest is without a device, in a live replacement and in a crash.

use std::time::Duration;

use anyhow::{Context, Result};
use manatee::component::Component;
use manatee::device::{Device, Limits, SwapOptions};
use manatee::endpoint::{Endpoint, Null};

use super::device::BATCH;
use crate::driver::{Layout, SMALL, Thin};
use crate::report::{Bound, Figure};
use crate::sample::Measured;
use crate::sandboxed::Sandboxed;

/// Replacements of each kind.
const SWAPS: usize = 400;
/// Crashes, of every kind that is seeded.
const CRASHES: u64 = 60;
/// 99th percentile, in microseconds.
const PAUSE: Bound = Bound::AtMost(2000.0);
const STATE: Bound = Bound::AtMost(65536.0);
/// 99th percentile of the microseconds from the trap until the following packets
/// continue.
const RECOVERY: Bound = Bound::AtMost(20_000.0);

fn thin(component: &Component, ports: u32, limits: Limits) -> Result<Thin<Sandboxed>> {
    let null = |_| Box::new(Null::new()) as Box<dyn Endpoint>;
    let layout = Layout::of(64);
    let endpoints = (0..ports).map(null).collect();
    let machine = Sandboxed::new(component, endpoints, layout.ram(), limits)?;
    Thin::new(machine, ports, SMALL, layout)
}

/// Sends a batch on each port in turn, until told to stop.
fn load(thin: &mut Thin<Sandboxed>, stop: impl Fn() -> bool) {
    let mut port = 0;
    while !stop() {
        thin.post_packets(port, BATCH);
        thin.ring_send(port);
        thin.take_sent(port, BATCH);
        port = (port + 1) % thin.ports();
    }
}

/// Replaces the component back and forth. Returns the pauses in microseconds,
/// and the largest state in bytes.
fn swaps(device: &Device, successors: &[Component; 2]) -> Result<(Vec<f64>, usize)> {
    let options = SwapOptions {
        probation: Duration::ZERO,
    };
    let mut pauses = Vec::with_capacity(SWAPS);
    let mut largest = 0;
    for round in 0..SWAPS {
        let swap = device.swap(&successors[round % 2], options)?;
        pauses.push(swap.pause.as_nanos() as f64 / 1e3);
        largest = largest.max(swap.state_bytes);
    }
    Ok((pauses, largest))
}

/// Returns the pauses with this number of queue pairs.
fn swap_with(ports: u32, successors: &[Component; 2]) -> Result<Vec<Figure>> {
    let mut thin = thin(&successors[1], ports, Limits::default())?;
    let device = thin.machine().device();
    let (idle, state) = swaps(&device, successors)?;
    let (busy, busy_state) = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| swaps(&device, successors));
        load(&mut thin, || swapping.is_finished());
        swapping.join().expect("no panic")
    })?;
    let state = state.max(busy_state) as f64;
    let pairs = format!(
        "{ports} pair{} of queues",
        if ports == 1 { "" } else { "s" }
    );
    let figure = |when: &str, pauses: Vec<f64>| {
        let measured = Measured::of("pause", pauses);
        let p99 = measured.quantile(0.99);
        let what = format!("replacement, {pairs}, {when}");
        Figure::reported("swap", what, "us", vec![measured]).must("p99, us", p99, PAUSE)
    };
    let size = Measured::once("state", state);
    Ok(vec![
        figure("idle", idle),
        figure("under load", busy),
        Figure::reported("swap", format!("state, {pairs}"), "bytes", vec![size])
            .must("bytes", state, STATE),
    ])
}

/// Crashes a device over and over. Returns the microseconds from each trap until a
/// fresh instance has continued with the posted work.
fn crashes() -> Result<Vec<f64>> {
    let faulty = Component::from_bytes(manatee_variants::FAULTY, "the faulty component")?;
    // Endless loops are interrupted sooner than by default: they are not measured.
    let limits = Limits {
        deadline: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut thin = thin(&faulty, 1, limits)?;
    let device = thin.machine().device();
    let tree = loop {
        for _ in 0..100 {
            thin.post_packets(0, BATCH);
            thin.ring_send(0);
            while device.has_work() {
                std::thread::yield_now();
            }
            thin.take_sent_in_any_way(0, BATCH);
        }
        let tree = device.inspect();
        let failures = tree["runtime"]["failures"].as_u64();
        if failures.context("a count of failures")? >= CRASHES {
            break tree;
        }
    };
    let recoveries = tree["runtime"]["recoveries"].as_array();
    let recoveries = recoveries.context("a list of recoveries")?.iter();
    Ok(recoveries.filter_map(|r| r["took_us"].as_f64()).collect())
}

/// Measures the row `swap`.
///
/// # Errors
///
/// If a device can't be made or replaced.
pub fn run() -> Result<Vec<Figure>> {
    let next = Component::from_bytes(manatee_variants::NEXT, "the next component")?;
    let successors = [next, Component::embedded()?];
    // 32 pairs are 64 send and receive queues, with as many completion queues
    // and 32 event queues: 160 rings.
    let mut figures = Vec::new();
    for pairs in [1, 32, 64] {
        figures.extend(swap_with(pairs, &successors)?);
    }
    let measured = Measured::of("recovery", crashes()?);
    let p99 = measured.quantile(0.99);
    let figure = Figure::reported("swap", "trap to the next packet", "us", vec![measured]);
    figures.push(figure.must("p99, us", p99, RECOVERY));
    Ok(figures)
}
