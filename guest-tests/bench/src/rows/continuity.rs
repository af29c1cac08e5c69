//! How long a guest waits when the process that serves it is upgraded, restarted or killed, and what
//! it costs to be prepared for that.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manatee::component::Component;
use manatee::continuity::live::{DescriptorStore, LiveState};
use manatee::device::Limits;
use manatee::endpoint::Null;
use manatee::vfio_user::{Vectors, record};
use manatee_guest_linux::assets::beside_this_program;
use rustix::process::Signal;

use super::device::BATCH;
use crate::driver::{Layout, SMALL, Thin};
use crate::remote::{Kept, Remote, Taken};
use crate::report::{Bound, Figure};
use crate::sample::{Contender, Measured, alternate};
use crate::sandboxed::Sandboxed;

/// How often the process is upgraded, and killed, with one pair of queues; and otherwise.
const UPGRADES: usize = 1000;
const DEATHS: usize = 200;
const SELDOM: usize = 50;
/// A process that dies sooner is followed by another only after a while.
const SERVED: Duration = Duration::from_millis(300);
/// How long a packet may take at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// 99th percentiles, in microseconds.
const UPGRADE: Bound = Bound::AtMost(50_000.0);
const RESTART: Bound = Bound::AtMost(300_000.0);
const DEATH: Bound = Bound::AtMost(100_000.0);
/// Nanoseconds that a doorbell costs more if its process may be killed.
const RECORD: Bound = Bound::AtMost(5.0);
/// The keeper may take as much more as its allocator rounds up, and no descriptor.
const MEMORY: Bound = Bound::AtMost(256.0 * 1024.0);
const DESCRIPTORS: Bound = Bound::AtMost(0.0);
/// Replacements after which nothing may grow any more.
const SETTLED: usize = 50;

/// A guest with a process that serves it.
struct Attached {
    thin: Thin<Remote>,
    kept: Kept,
    pairs: u32,
}

impl Attached {
    fn start(dir: &Path, pairs: u32) -> Result<Self> {
        let manatee = beside_this_program("manatee", "bench")?;
        let kept = Kept::start(&manatee, dir, pairs)?;
        let layout = Layout::of(64);
        let machine = Remote::attach(&kept, layout.ram())?;
        let thin = Thin::new(machine, pairs, SMALL, layout)?;
        Ok(Self { thin, kept, pairs })
    }

    /// Sends a packet on each port in turn until `act` has been carried out. Returns the longest
    /// time in microseconds from a doorbell until the packet was sent.
    fn longest_wait(&mut self, act: impl FnOnce(&Kept) -> Result<()> + Send) -> Result<f64> {
        let Self { thin, kept, .. } = self;
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| act(kept));
            let mut longest = Duration::ZERO;
            let mut port = 0;
            // One more, since it may have ended while a packet waited.
            let mut last = false;
            while !last {
                last = acting.is_finished();
                longest = longest.max(send(thin, port)?);
                port = (port + 1) % thin.ports();
            }
            acting.join().expect("no panic")?;
            Ok(longest.as_nanos() as f64 / 1e3)
        })
    }

    /// Replaces the process `times` times. Returns the longest wait of each, and how much the
    /// keeper has taken since it had settled.
    fn replace(
        &mut self,
        times: usize,
        mut act: impl FnMut(&Kept) -> Result<()> + Send,
    ) -> Result<(Vec<f64>, Taken)> {
        let mut waits = Vec::with_capacity(times);
        let mut settled = self.kept.taken()?;
        for number in 0..times {
            if number == SETTLED.min(times / 2) {
                settled = self.kept.taken()?;
            }
            let wait = self.longest_wait(&mut act);
            waits.push(wait.with_context(|| format!("replacement {number} of {times}"))?);
        }
        let taken = self.kept.taken()?;
        let grown = Taken {
            memory: taken.memory - settled.memory,
            descriptors: taken.descriptors - settled.descriptors,
        };
        Ok((waits, grown))
    }

    /// Replaces the process as [`replace`](Self::replace) does, and reports that.
    fn measure(
        &mut self,
        row: &'static str,
        (what, bound): (&str, Bound),
        times: usize,
        act: impl FnMut(&Kept) -> Result<()> + Send,
    ) -> Result<Vec<Figure>> {
        let (waits, grown) = self.replace(times, act).context(what.to_owned())?;
        let plural = if self.pairs == 1 { "" } else { "s" };
        let what = format!("{what}, {} pair{plural} of queues", self.pairs);
        let measured = Measured::of("longest wait", waits);
        let p99 = measured.quantile(0.99);
        let mut figures = vec![
            Figure::reported(row, what.clone(), "us", vec![measured]).must("p99, us", p99, bound),
        ];
        if times > SELDOM {
            let grow = |of: &str, unit, value, bound| {
                let what = format!("{what}: growth of the keeper's {of} in {times}");
                let measured = vec![Measured::once("growth", value)];
                Figure::reported(row, what, unit, measured).must(unit, value, bound)
            };
            figures.push(grow("memory", "bytes", grown.memory, MEMORY));
            figures.push(grow(
                "descriptors",
                "number",
                grown.descriptors,
                DESCRIPTORS,
            ));
        }
        Ok(figures)
    }

    /// Ends the process by a signal, again and again.
    fn end(
        &mut self,
        row: &'static str,
        required: (&str, Bound),
        times: usize,
        signal: Signal,
    ) -> Result<Vec<Figure>> {
        let mut process = self.kept.process()?;
        self.measure(row, required, times, move |kept| {
            std::thread::sleep(SERVED);
            kept.end(&mut process, signal)
        })
    }
}

/// Sends a packet. Returns the time until it was sent.
fn send(thin: &mut Thin<Remote>, port: usize) -> Result<Duration> {
    let begun = Instant::now();
    thin.post_packets(port, 1);
    thin.ring_send(port);
    while !thin.try_take_sent(port) {
        ensure!(begun.elapsed() < PATIENCE, "a packet is never sent");
        std::thread::yield_now();
    }
    Ok(begun.elapsed())
}

/// Measures the row `upgrade`.
///
/// # Errors
///
/// If a process can't be replaced.
pub fn run_upgrade(dir: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (pairs, times) in [(1, UPGRADES), (64, SELDOM)] {
        let mut attached = Attached::start(dir, pairs)?;
        let upgrade = ("upgrade", UPGRADE);
        figures.extend(attached.measure("upgrade", upgrade, times, Kept::upgrade)?);
        let restart = ("restart", RESTART);
        figures.extend(attached.end("upgrade", restart, SELDOM, Signal::TERM)?);
    }
    Ok(figures)
}

/// Measures the row `death`.
///
/// # Errors
///
/// If no process continues.
pub fn run_death(dir: &Path) -> Result<Vec<Figure>> {
    let mut figures = cost()?;
    for (pairs, times) in [(1, DEATHS), (64, SELDOM)] {
        let mut attached = Attached::start(dir, pairs)?;
        let built_in = ("SIGKILL, the component that is built in", DEATH);
        figures.extend(attached.end("death", built_in, times, Signal::KILL)?);
        attached.kept.swap(manatee_variants::NEXT)?;
        let swapped = ("SIGKILL, one that was swapped in", DEATH);
        figures.extend(attached.end("death", swapped, SELDOM, Signal::KILL)?);
    }
    Ok(figures)
}

/// A store that forgets.
#[derive(Debug)]
struct Nowhere;

impl DescriptorStore for Nowhere {
    fn store(&self, _name: &str, _descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _name: &str) {}
}

/// Makes a device whose process may be killed, or not.
fn device(live: Option<&LiveState>) -> Result<Thin<Sandboxed>> {
    let component = Component::embedded()?;
    let layout = Layout::of(64);
    let endpoints = vec![Box::new(Null::new()) as _];
    let machine = Sandboxed::new(&component, endpoints, layout.ram(), Limits::default())?;
    let device = machine.device();
    let mut thin = Thin::new(machine, 1, SMALL, layout)?;
    if let Some(live) = live {
        let vectors = Vectors::new(component.describe()?.msix_vectors);
        record(live, &device, &vectors)?;
        live.activate();
    }
    // The first completions find their queue armed.
    thin.post_packets(0, 1);
    thin.ring_send(0);
    thin.take_sent(0, 1);
    Ok(thin)
}

/// Measures what it costs to record what a successor needs, with batches of one packet and of many.
fn cost() -> Result<Vec<Figure>> {
    let live = LiveState::new(Box::new(Nowhere), 1)?;
    let mut figures = Vec::new();
    for packets in [1, BATCH] {
        let (mut with, mut without) = (device(Some(&live))?, device(None)?);
        let act = |thin: &mut Thin<Sandboxed>| {
            thin.post_packets(0, packets);
            thin.ring_send(0);
            thin.take_sent(0, packets);
        };
        let times = 2000;
        let measured = alternate(
            301,
            vec![
                Contender::timed("kept", times, || act(&mut with)),
                Contender::timed("not kept", times, || act(&mut without)),
            ],
        );
        let more = measured[0].minus(&measured[1]);
        let what = format!("a batch of {packets}, with its doorbell");
        let figure = Figure::reported("death", what, "ns", measured);
        figures.push(figure.must("ns more", more, RECORD));
    }
    Ok(figures)
}
