//! Instructions of the native device per packet, counted by callgrind: shows a
//! regression without measuring time.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use manatee::endpoint::{Loopback, Null};

use super::device::{self, BATCH};
use super::source::Source;
use crate::driver::Thin;
use crate::machine::Machine;
use crate::ram::Ram;
use crate::report::{Bound, Figure};
use crate::sample::Measured;

/// Doorbells that are counted, once everything is warm.
const TIMES: u32 = 20;
const WARM_UP: u32 = 20;
/// How much more than the committed count is a regression: differences between
/// compilers are smaller.
const TOLERANCE: f64 = 1.03;
/// Callgrind counts inside this function only.
const COUNTED: &str = "*manatee_bench_counted*";
/// The committed counts.
const COMMITTED: &str = include_str!("../../instructions.json");

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    Transmit,
    Receive,
    RoundTrip,
}

impl Probe {
    /// Runs the code to be counted, under callgrind.
    ///
    /// # Errors
    ///
    /// If the device can't be made.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Transmit => repeat(device::native(Null::new())?, device::transmit),
            Self::Receive => repeat(device::native(Source::new(64))?, device::receive),
            Self::RoundTrip => {
                let mut thin = device::native(Loopback::new())?;
                thin.post_buffers(0, BATCH);
                thin.ring_receive(0);
                repeat(thin, device::round_trip);
            }
        }
        Ok(())
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn repeat<M: Machine>(thin: Thin<M>, act: fn(&mut Thin<Counted<M>>)) {
    let mut thin = thin.map(|machine| Counted {
        machine,
        counting: false,
    });
    for _ in 0..WARM_UP {
        act(&mut thin);
    }
    thin.machine.counting = true;
    for _ in 0..TIMES {
        act(&mut thin);
    }
}

/// A machine whose device is counted, and whose driver is not.
struct Counted<M> {
    machine: M,
    counting: bool,
}

#[inline(never)]
fn manatee_bench_counted<M: Machine>(machine: &mut M, offset: u64, width: u8, value: u64) {
    machine.write_register(offset, width, value);
}

impl<M: Machine> Machine for Counted<M> {
    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        if self.counting {
            manatee_bench_counted(&mut self.machine, offset, width, value);
        } else {
            self.machine.write_register(offset, width, value);
        }
    }

    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.machine.read_register(offset, width)
    }

    fn ram(&self) -> &Ram {
        self.machine.ram()
    }

    fn interrupts(&self) -> &crate::machine::InterruptController {
        self.machine.interrupts()
    }
}

/// Measures the row `instructions`.
///
/// # Errors
///
/// If valgrind is missing or does not run.
pub fn run(dir: &Path) -> Result<Vec<Figure>> {
    let committed: BTreeMap<String, f64> =
        serde_json::from_str(COMMITTED).context("reading the committed instruction counts")?;
    let mut counts = BTreeMap::new();
    let mut figures = Vec::new();
    for probe in Probe::value_variants() {
        let name = probe.name();
        let count = count(*probe, dir)?;
        let was = *committed.get(&name).unwrap_or(&f64::INFINITY);
        let measured = [("now", count), ("committed", was)];
        let measured = measured.map(|(name, value)| Measured::once(name, value));
        let what = format!("{name}, native device and endpoint");
        let figure = Figure::reported("instructions", what, "a packet", measured.into());
        figures.push(figure.must("of the committed", count / was, Bound::AtMost(TOLERANCE)));
        counts.insert(name, count);
    }
    let text = serde_json::to_string_pretty(&counts)? + "\n";
    std::fs::write(dir.join("instructions.json"), text)?;
    Ok(figures)
}

fn count(probe: Probe, dir: &Path) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!(
            "--callgrind-out-file={}",
            dir.join(format!("callgrind.{}", probe.name())).display()
        ))
        .arg(std::env::current_exe()?)
        .args(["--probe", &probe.name()]);
    let output = valgrind
        .output()
        .context("starting valgrind, which Debian's package of that name has")?;
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{valgrind:?} failed: {printed}");
    let Some((_, count)) = printed.split_once("Collected : ") else {
        bail!("callgrind tells no count: {printed}");
    };
    let count = count.split_whitespace().next().unwrap_or_default();
    let count: f64 = count
        .parse()
        .with_context(|| format!("`{count}` is no count"))?;
    ensure!(count > 0.0, "callgrind did not find what to count");
    Ok((count / f64::from(TIMES * BATCH) * 10.0).round() / 10.0)
}
