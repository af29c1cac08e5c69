//! The device against itself without a sandbox, and windows against copies.

use anyhow::Result;
use manatee::component::Component;
use manatee::device::Limits;
use manatee::endpoint::{Endpoint, Loopback, Null};
use manatee_conformance::driver::nic::Sizes;

use super::source::Source;
use crate::driver::{Kind, Layout, PACKETS, Thin};
use crate::machine::Machine;
use crate::native::Native;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, Measured, alternate};
use crate::sandboxed::Sandboxed;

/// Packets a doorbell.
pub const BATCH: u32 = PACKETS as u32;
const ROUNDS: usize = 301;
/// Doorbells in a sample.
const TIMES: u32 = 200;

/// The share of native throughput that is required.
const OF_NATIVE: Bound = Bound::AtLeast(0.85);
/// How much faster windows must be than copies, which take many entries at a time.
const OF_COPIES: Bound = Bound::AtLeast(1.5);
/// Nanoseconds per packet, half of those of OpenVMM's native emulator.
const TRANSMIT_SHAPE: Bound = Bound::AtMost(90.0);
const ROUND_TRIP_SHAPE: Bound = Bound::AtMost(200.0);
/// The cost that a packet of four segments may have, relative to one segment.
const OF_PLAIN: Bound = Bound::AtMost(2.0);

/// Returns a sandboxed device with one port, with windows or without.
///
/// # Errors
///
/// If it can't be made.
pub fn sandboxed(endpoint: impl Endpoint + 'static, windows: bool) -> Result<Thin<Sandboxed>> {
    let limits = Limits {
        windows,
        ..Limits::default()
    };
    let layout = Layout::of(64);
    let component = Component::embedded()?;
    let machine = Sandboxed::new(&component, vec![Box::new(endpoint)], layout.ram(), limits)?;
    Thin::new(machine, 1, Sizes::LARGE, layout)
}

/// Returns a native device with one port.
///
/// # Errors
///
/// If it can't be made.
pub fn native(endpoint: impl Endpoint + 'static) -> Result<Thin<Native>> {
    let layout = Layout::of(64);
    let machine = Native::new(vec![Box::new(endpoint)], layout.ram())?;
    Thin::new(machine, 1, Sizes::LARGE, layout)
}

/// Sends a doorbell's worth of packets, and takes all completions.
pub fn transmit<M: Machine>(thin: &mut Thin<M>) {
    thin.post_packets(0, BATCH);
    thin.ring_send(0);
    thin.take_sent(0, BATCH);
}

/// Posts a doorbell's worth of buffers, receives packets into all of them, and takes all
/// completions.
pub fn receive<M: Machine>(thin: &mut Thin<M>) {
    thin.post_buffers(0, BATCH);
    thin.ring_receive(0);
    assert_eq!(thin.take_received(0), BATCH, "packets received");
}

/// Sends a doorbell's worth of packets and receives them again, takes all completions, and
/// posts the buffers again.
pub fn round_trip<M: Machine>(thin: &mut Thin<M>) {
    transmit(thin);
    assert_eq!(thin.take_received(0), BATCH, "packets that came back");
    thin.post_buffers(0, BATCH);
    thin.ring_receive(0);
}

fn contender<'a, M: Machine>(
    name: &str,
    thin: &'a mut Thin<M>,
    act: fn(&mut Thin<M>),
) -> Contender<'a> {
    Contender::timed(name, TIMES, move || act(thin)).per(BATCH.into())
}

/// Measures the row `device`.
///
/// # Errors
///
/// If a device can't be made.
pub fn run() -> Result<Vec<Figure>> {
    let (mut wasm, mut bare) = (sandboxed(Null::new(), true)?, native(Null::new())?);
    let sent = alternate(
        ROUNDS,
        vec![
            contender("wasm", &mut wasm, transmit),
            contender("native", &mut bare, transmit),
        ],
    );
    let (mut wasm, mut bare) = (sandboxed(Source::new(64), true)?, native(Source::new(64))?);
    let received = alternate(
        ROUNDS,
        vec![
            contender("wasm", &mut wasm, receive),
            contender("native", &mut bare, receive),
        ],
    );
    let row = |what, measured: Vec<Measured>| {
        let share = measured[1].over(&measured[0]);
        Figure::reported("device", what, "ns/packet", measured).must(
            "wasm's packets/s of native's",
            share,
            OF_NATIVE,
        )
    };
    Ok(vec![row("transmit", sent), row("receive", received)])
}

/// Measures the row `windows`.
///
/// # Errors
///
/// If a device can't be made.
pub fn run_windows() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let (mut with, mut without) = (
        sandboxed(Null::new(), true)?,
        sandboxed(Null::new(), false)?,
    );
    let sent = alternate(
        ROUNDS / 3,
        vec![
            contender("windows", &mut with, transmit),
            contender("copies", &mut without, transmit),
        ],
    );
    let (mut with, mut without) = (
        sandboxed(Source::new(64), true)?,
        sandboxed(Source::new(64), false)?,
    );
    let received = alternate(
        ROUNDS / 3,
        vec![
            contender("windows", &mut with, receive),
            contender("copies", &mut without, receive),
        ],
    );
    for (what, measured) in [("transmit", sent), ("receive", received)] {
        let gain = measured[1].over(&measured[0]);
        let figure = Figure::reported("windows", what, "ns/packet", measured);
        figures.push(figure.must("times as fast with windows", gain, OF_COPIES));
    }
    Ok(figures)
}

/// Measures the row `shapes`: what OpenVMM's emulator of the same device was measured with.
///
/// # Errors
///
/// If a device can't be made.
pub fn run_shapes() -> Result<Vec<Figure>> {
    let mut null = sandboxed(Null::new(), true)?;
    let mut loopback = sandboxed(Loopback::new(), true)?;
    loopback.post_buffers(0, BATCH);
    loopback.ring_receive(0);
    let measured = alternate(
        ROUNDS,
        vec![
            contender("wasm", &mut null, transmit),
            contender("wasm", &mut loopback, round_trip),
        ],
    );
    let names = [
        ("transmit, 64 a doorbell, null endpoint", TRANSMIT_SHAPE),
        (
            "64 bytes out and back, buffer posted again",
            ROUND_TRIP_SHAPE,
        ),
    ];
    let figures = measured
        .into_iter()
        .zip(names)
        .map(|(measured, (what, bound))| {
            let median = measured.median;
            Figure::reported("shapes", what, "ns/packet", vec![measured]).must("ns", median, bound)
        });
    Ok(figures.collect())
}

/// Measures the row `sges`: packets of several segments, with a long OOB, and to be cut.
///
/// # Errors
///
/// If a device can't be made.
pub fn run_sges() -> Result<Vec<Figure>> {
    let plain = Layout::of(216);
    let of = |segments, kind| Layout {
        segments,
        kind,
        ..plain
    };
    let shapes = [
        ("1", plain),
        ("2", of((2, 108), Kind::Plain)),
        ("4", of((4, 54), Kind::Plain)),
        ("long OOB", of((1, 216), Kind::LongOob)),
        ("large send of 2", of((2, 54), Kind::LargeSend)),
    ];
    let make = |layout: Layout| {
        let component = Component::embedded()?;
        let endpoint: Box<dyn Endpoint> = Box::new(Null::new());
        let limits = Limits::default();
        let machine = Sandboxed::new(&component, vec![endpoint], layout.ram(), limits)?;
        Thin::new(machine, 1, Sizes::LARGE, layout)
    };
    let devices = shapes.iter().map(|(_, layout)| make(*layout));
    let mut devices = devices.collect::<Result<Vec<_>>>()?;
    let contenders = shapes.iter().zip(&mut devices);
    let contenders = contenders.map(|((name, _), thin)| contender(name, thin, transmit));
    let measured = alternate(ROUNDS, contenders.collect());
    let four = measured[2].over(&measured[0]);
    let figure = Figure::reported("sges", "transmit, by segments", "ns/packet", measured);
    Ok(vec![figure.must("4 segments, of 1", four, OF_PLAIN)])
}
