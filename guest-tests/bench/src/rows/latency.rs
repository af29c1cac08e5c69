//! From a doorbell to its interrupt, a request of the hardware channel, a
//! register read: wasm against native.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use manatee::component::Component;
use manatee::device::Limits;
use manatee::endpoint::{Endpoint, Null};
use manatee::interrupt::VectorSink;
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::nic::Sizes;
use manatee_conformance::guest::Unwired;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use super::device;
use crate::driver::{Layout, Thin};
use crate::machine::{BringUp, InterruptController, Machine};
use crate::native::Native;
use crate::ram::Ram;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, Measured, alternate};
use crate::sandboxed::Sandboxed;

const ROUNDS: usize = 5001;
/// The factor by which it may take longer in wasm.
const OF_NATIVE: Bound = Bound::AtMost(1.5);
/// Register reads in a sample.
const READS: u32 = 1000;
/// Offset of the doorbell page, which begins with the doorbell of send queues.
const SEND_DOORBELL: u64 = 0x1000;

/// Delivers interrupts as a VMM takes them, by eventfd.
struct Eventfd {
    fd: OwnedFd,
    controller: InterruptController,
}

impl VectorSink for Eventfd {
    fn raise(&self, vector: u16) {
        // The counter never gets near its end.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        self.controller.raise(vector);
    }
}

impl Eventfd {
    fn new(controller: &InterruptController) -> Result<Box<Self>> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
        let controller = controller.clone();
        Ok(Box::new(Self { fd, controller }))
    }
}

fn null() -> Vec<Box<dyn Endpoint>> {
    vec![Box::new(Null::new())]
}

/// Returns the nanoseconds from a packet's doorbell to its interrupt.
fn interrupt_after<M: Machine>(thin: &mut Thin<M>) -> f64 {
    thin.post_packets(0, 1);
    let begun = Instant::now();
    thin.ring_send(0);
    let took = thin.machine.interrupts().since(begun);
    assert_ne!(
        thin.machine.interrupts().take(),
        0,
        "an interrupt was raised"
    );
    thin.take_sent(0, 1);
    thin.arm(0);
    took as f64
}

fn interrupt_contender<'a, M: Machine>(name: &str, thin: &'a mut Thin<M>) -> Contender<'a> {
    // The first completion finds its queue armed.
    Contender::new(name, || interrupt_after(thin))
}

/// A machine that notes how long the last doorbell of a send queue took.
struct Stopwatch<M> {
    machine: M,
    last: Rc<Cell<f64>>,
}

impl<M: Machine> Machine for Stopwatch<M> {
    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let begun = Instant::now();
        self.machine.write_register(offset, width, value);
        if offset == SEND_DOORBELL {
            self.last.set(begun.elapsed().as_nanos() as f64);
        }
    }

    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.machine.read_register(offset, width)
    }

    fn ram(&self) -> &Ram {
        self.machine.ram()
    }

    fn interrupts(&self) -> &InterruptController {
        self.machine.interrupts()
    }
}

/// Has `requests` make one request after another, with the conformance suite's driver;
/// a sample is the time from a request's doorbell to its interrupt.
fn requests() -> Result<Vec<Measured>> {
    let layout = Layout::of(64);
    let component = Component::embedded()?;
    let limits = Limits::default();
    let (first, second) = (Rc::new(Cell::new(0.0)), Rc::new(Cell::new(0.0)));
    let mut wasm = Stopwatch {
        machine: Sandboxed::new(&component, null(), layout.ram(), limits)?,
        last: first.clone(),
    };
    let mut native = Stopwatch {
        machine: Native::new(null(), layout.ram())?,
        last: second.clone(),
    };
    let (mut wasm, mut native) = (Unwired(BringUp(&mut wasm)), Unwired(BringUp(&mut native)));
    let (mut wasm, mut native) = (Driver::new(&mut wasm), Driver::new(&mut native));
    for driver in [&mut wasm, &mut native] {
        let started = driver.start();
        started.map_err(|error| anyhow!("bringing the device up: {error}"))?;
    }
    let ask = |driver: &mut Driver<'_>, last: &Cell<f64>| {
        driver.query_vport(0).expect("an answered request");
        last.get()
    };
    let samples = (0..ROUNDS / 5).map(|_| (ask(&mut wasm, &first), ask(&mut native, &second)));
    let (wasm, native) = samples.unzip();
    Ok(vec![
        Measured::of("wasm", wasm),
        Measured::of("native", native),
    ])
}

/// Measures the row `latency`.
///
/// # Errors
///
/// If a device can't be made.
pub fn run() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let layout = Layout::of(64);
    let component = Component::embedded()?;
    let bare = alternate(
        ROUNDS,
        vec![
            interrupt_contender("wasm", &mut device::sandboxed(Null::new(), true)?),
            interrupt_contender("native", &mut device::native(Null::new())?),
        ],
    );
    let (first, second) = (InterruptController::new(), InterruptController::new());
    let machine = Sandboxed::with_sink(
        &component,
        null(),
        layout.ram(),
        Limits::default(),
        first.clone(),
        Eventfd::new(&first)?,
    )?;
    let mut wasm = Thin::new(machine, 1, Sizes::LARGE, layout)?;
    let sink = Eventfd::new(&second)?;
    let machine = Native::with_sink(null(), layout.ram(), second, sink)?;
    let mut native = Thin::new(machine, 1, Sizes::LARGE, layout)?;
    let delivered = alternate(
        ROUNDS,
        vec![
            interrupt_contender("wasm", &mut wasm),
            interrupt_contender("native", &mut native),
        ],
    );
    for (how, measured) in [("call", bare), ("eventfd", delivered)] {
        let late = measured
            .iter()
            .map(|m| Measured::once(&m.name, m.quantile(0.99)));
        let late: Vec<Measured> = late.collect();
        let what = format!("doorbell to interrupt by {how}, p50");
        let ratio = measured[0].over(&measured[1]);
        figures.push(Figure::reported("latency", what, "ns", measured).must(
            "wasm/native",
            ratio,
            OF_NATIVE,
        ));
        let what = format!("doorbell to interrupt by {how}, p99");
        let ratio = late[0].over(&late[1]);
        figures.push(Figure::reported("latency", what, "ns", late).must(
            "wasm/native",
            ratio,
            OF_NATIVE,
        ));
    }
    let asked = requests()?;
    let ratio = asked[0].over(&asked[1]);
    let figure = Figure::reported("latency", "hardware-channel request", "ns", asked);
    figures.push(figure.must("wasm/native", ratio, OF_NATIVE));
    let mut wasm = device::sandboxed(Null::new(), true)?.machine;
    let mut native = device::native(Null::new())?.machine;
    let read = alternate(
        101,
        vec![
            Contender::timed("wasm", READS, || _ = wasm.read_register(8, 8)),
            Contender::timed("native", READS, || _ = native.read_register(8, 8)),
        ],
    );
    let ratio = read[0].over(&read[1]);
    let figure = Figure::reported("latency", "register read", "ns", read);
    figures.push(figure.says("wasm/native", ratio));
    Ok(figures)
}
