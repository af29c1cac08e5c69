//! Many devices in one process: memory, idle time, and the time to make one.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manatee::component::Component;
use manatee::device::Limits;
use manatee::endpoint::Null;
use manatee_conformance::driver::nic::Sizes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::device;
use crate::driver::{Layout, Thin};
use crate::report::{Bound, Figure};
use crate::sample::Measured;
use crate::sandboxed::Sandboxed;

const COUNTS: [usize; 4] = [1, 10, 100, 1000];
/// How long idle devices are observed.
const IDLE: Duration = Duration::from_secs(1);

const MEMORY: Bound = Bound::AtMost(1024.0);
const IDLE_CPU: Bound = Bound::AtMost(0.0);
/// Making the last of many takes no longer than making the first ones.
const LINEAR: Bound = Bound::AtMost(1.25);

/// The measurements of a process with a number of devices.
#[derive(Serialize, Deserialize)]
pub struct Found {
    /// KiB a device, page tables included.
    memory: f64,
    /// Microseconds of processor time in a second, of all devices' threads.
    idle: f64,
    /// Microseconds to make one.
    creation: f64,
}

/// Makes devices, each with a driver that has sent a batch, and prints the
/// measurements.
///
/// # Errors
///
/// If a device can't be made.
pub fn probe(count: usize) -> Result<()> {
    raise_descriptor_limit()?;
    let component = Component::embedded()?;
    let make = || {
        let layout = Layout::of(64);
        let begun = Instant::now();
        let endpoints = vec![Box::new(Null::new()) as Box<_>];
        let machine = Sandboxed::new(&component, endpoints, layout.ram(), Limits::default())?;
        let took = begun.elapsed();
        let mut thin = Thin::new(machine, 1, Sizes::SMALL, layout)?;
        device::transmit(&mut thin);
        anyhow::Ok((thin, took))
    };
    // Costs of the process itself do not count.
    drop(make()?);
    let before = resident()?;
    let mut devices = Vec::with_capacity(count);
    let mut creation = Duration::ZERO;
    for _ in 0..count {
        let (thin, took) = make()?;
        creation += took;
        devices.push(thin);
    }
    let memory = resident()? - before;
    // The deadlines' thread goes to sleep first.
    sleep(IDLE / 2);
    let busy = other_threads_time()?;
    sleep(IDLE);
    let idle = other_threads_time()? - busy;
    let found = Found {
        memory: memory / count as f64,
        idle,
        creation: creation.as_nanos() as f64 / 1e3 / count as f64,
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn raise_descriptor_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).context("cannot raise the limit of descriptors")
}

/// Returns the processor time of every thread but this one, in microseconds.
fn other_threads_time() -> Result<f64> {
    // By its name in /proc, which differs from its id in a namespace.
    let own =
        std::fs::read_link("/proc/thread-self").context("cannot tell which thread this is")?;
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if own.file_name() == Some(&thread.file_name()) {
            continue;
        }
        let text = std::fs::read_to_string(thread.path().join("schedstat"))?;
        let first = text.split_whitespace().next().unwrap_or_default();
        nanoseconds += first.parse::<f64>().context("a thread's time")?;
    }
    Ok(nanoseconds / 1e3)
}

/// Returns the KiB of this process: its own memory and page tables; guest memory, which
/// is shared, is not among them.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        let value = value.with_context(|| format!("/proc/self/status has no {name}"))?;
        value.parse::<f64>().context("a size")
    };
    Ok(field("RssAnon")? + field("RssFile")? + field("VmPTE")?)
}

/// Measures the row `scale`.
///
/// # Errors
///
/// If a process with many devices fails.
pub fn run() -> Result<Vec<Figure>> {
    let found: Vec<Found> = COUNTS
        .iter()
        .map(|count| in_process(*count))
        .collect::<Result<_>>()?;
    let row = |what: &str, unit, value: fn(&Found) -> f64| {
        let each = COUNTS.iter().zip(&found);
        let measured =
            each.map(|(count, found)| Measured::once(&format!("{count} devices"), value(found)));
        Figure::reported("scale", what, unit, measured.collect())
    };
    let [.., hundred, thousand] = &found[..] else {
        unreachable!("as many as there are counts");
    };
    Ok(vec![
        row("memory a device beyond guest memory", "KiB", |found| {
            found.memory
        })
        .must("KiB a device of 1000", thousand.memory, MEMORY),
        row("idle devices, all of them, in a second", "us", |found| {
            found.idle
        })
        .must("us of 1000 devices", thousand.idle, IDLE_CPU),
        row("making one", "us", |found| found.creation).must(
            "of 1000 / of 100",
            thousand.creation / hundred.creation,
            LINEAR,
        ),
    ])
}

fn in_process(count: usize) -> Result<Found> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--scale", &count.to_string()]);
    let output = command
        .output()
        .context("starting a process with devices")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{count} devices in a process: {errors}"
    );
    serde_json::from_slice(&output.stdout).context("reading what it found")
}
