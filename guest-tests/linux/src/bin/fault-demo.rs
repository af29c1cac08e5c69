//! Crashes the device in every way under a stock Linux guest with traffic.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use manatee_guest_linux::checks;
use manatee_guest_linux::control::Recovery;
use manatee_guest_linux::deadline::Deadline;
use manatee_guest_linux::lab::{Device, Lab, Parts, Plan};
use manatee_guest_linux::opening::{self, unaware};
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::spread::Spread;
use manatee_guest_linux::stage::{Options, Stage};
use manatee_guest_linux::traffic::{Outcome, SETTINGS, Traffic};
use manatee_guest_linux::transcript::Transcript;
use manatee_traffic::tally::Tally;

/// Two adapters of one guest, of which the first crashes.
const PLAN: Plan = Plan {
    device: Device::Manatee,
    ports: 2,
    apart: true,
    cpus: 1,
    queues: 1,
};

/// A way to crash, of `component/src/faults.rs`.
struct Fault {
    /// Its name in the report.
    name: &'static str,
    /// Its name in the component's log.
    seeded: &'static str,
    /// How the host reports it.
    reason: &'static str,
}

const FAULTS: [Fault; 5] = [
    Fault {
        name: "trap",
        seeded: "Trap",
        reason: "unreachable",
    },
    Fault {
        name: "loop",
        seeded: "Loop",
        reason: "interrupt",
    },
    Fault {
        name: "growth",
        seeded: "Grow",
        reason: "unreachable",
    },
    Fault {
        name: "corruption",
        seeded: "Corrupt",
        reason: "unreachable",
    },
    Fault {
        name: "garbage",
        seeded: "Garbage",
        reason: "segments",
    },
];

/// Whether a WQE crashes every device that works on it, or only one that did not crash
/// before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    Recurring,
    Once,
}

/// How many datagrams have to arrive both ways between two checks of the device.
const BETWEEN: u64 = 100;

/// How long these may take.
const WITHIN: Duration = Duration::from_secs(60);

/// How long it may take until every fault has happened.
const ALL_WITHIN: Duration = Duration::from_secs(300);

/// Crashes the device in every way under a stock Linux guest with traffic.
#[derive(Parser)]
#[command(name = "fault-demo")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("fault-demo", show(&Arguments::parse().options))
}

fn show(options: &Options) -> Result<()> {
    let stage = Arc::new(Stage::set(options)?);
    let report = Report::begin(&format!(
        "A device that crashes in {} ways under a stock Linux {}",
        FAULTS.len(),
        stage.kernel.release
    ));
    let mut lab = opening::network(&report, &stage, PLAN)?;
    match steps(&report, &mut lab) {
        Ok(()) => {
            println!("  all of it in {}", report.total());
            Ok(())
        }
        Err(error) => Err(lab.with_evidence(error)),
    }
}

fn steps(report: &Report, lab: &mut Lab) -> Result<()> {
    let faulty = write_component(lab.stage().sandbox.run_dir())?;
    opening::guest(report, lab, PLAN, &[&faulty])?;
    let healthy = lab.health()?;
    let (traffic, beside) = report.step_with("traffic", || start_traffic(lab))?;
    let crashes = report.step_with("crashes", || crash(lab, &traffic))?;
    for fault in &FAULTS {
        report.step(fault.name, || crashes.by(fault))?;
    }
    report.step("guest", || unaware(lab, &healthy))?;
    let (crashed, beside) = report.step_with("end of it", || {
        let Parts { vm, ports, .. } = lab.parts()?;
        let outcomes = (
            traffic.finish(vm, &ports[0])?,
            beside.finish(vm, &ports[1])?,
        );
        Ok((
            outcomes,
            "both ends have told what they received".to_owned(),
        ))
    })?;
    report_losses(report, &crashed, &crashes)?;
    report.step("beside it", || unaffected(&beside))?;
    report.step("end", || {
        lab.stop()?;
        Ok("both `manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

fn write_component(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("faulty.wasm");
    fs::write(&path, manatee_variants::FAULTY)?;
    Ok(path)
}

fn start_traffic(lab: &mut Lab) -> Result<((Traffic, Traffic), String)> {
    let Parts { vm, ports, .. } = lab.parts()?;
    let both = (
        Traffic::start(vm, &ports[0])?,
        Traffic::start(vm, &ports[1])?,
    );
    let words = format!(
        "on either adapter {} datagrams a second of {} bytes, and TCP at full speed, both ways at once",
        SETTINGS.rate, SETTINGS.size
    );
    Ok((both, words))
}

/// Lets the traffic run until each fault has happened, and checks that the guest
/// answers meanwhile.
fn crash(lab: &mut Lab, traffic: &Traffic) -> Result<(Crashes, String)> {
    let control = lab.control(0)?;
    let deadline = Deadline::after(ALL_WITHIN);
    loop {
        traffic.wait_for_more(BETWEEN, WITHIN)?;
        let Parts { vm, ports, .. } = lab.parts()?;
        checks::wait_reachable(vm, ports[0].tap.subnet())?;
        lab.check_serve()?;
        let state: String = control.inspect("runtime/state")?;
        ensure!(state == "running", "the device is {state}");
        // In this order, because each fault is soon followed by a recovery.
        let met = met_so_far(lab.log(0)?);
        let recoveries: Vec<Recovery> = control.inspect("runtime/recoveries")?;
        if all_met(&met) && recoveries.len() == met.len() {
            let crashes = Crashes(met.into_iter().zip(recoveries).collect());
            let words = crashes.to_string();
            return Ok((crashes, words));
        }
        ensure!(
            deadline.remaining().is_some(),
            "within {ALL_WITHIN:?}, the device met only {} faults, and recovered {} times",
            met.len(),
            recoveries.len()
        );
    }
}

/// A fault that happened: its index, and its flavour.
type MetFault = (usize, Flavour);

/// Returns the faults that happened, in order, from the component's log.
fn met_so_far(log: &Transcript) -> Vec<MetFault> {
    let log = log.tail(usize::MAX);
    let seeded = log
        .lines()
        .filter_map(|line| line.split_once("seeded fault "));
    let parse = |(_, words): (&str, &str)| {
        let mut words = words.split(' ');
        let (fault, flavour) = (words.next()?, words.next()?);
        let flavours = [Flavour::Recurring, Flavour::Once];
        let flavour = flavours.into_iter().find(|f| format!("{f:?}") == flavour)?;
        let fault = FAULTS.iter().position(|f| f.seeded == fault)?;
        Some((fault, flavour))
    };
    seeded.filter_map(parse).collect()
}

fn all_met(met: &[MetFault]) -> bool {
    let wanted = (0..FAULTS.len())
        .flat_map(|fault| [Flavour::Recurring, Flavour::Once].map(|flavour| (fault, flavour)));
    wanted.into_iter().all(|fault| met.contains(&fault))
}

/// The crashes, each with its recovery.
struct Crashes(Vec<(MetFault, Recovery)>);

impl Crashes {
    /// Counts the crashes by one fault, which the host must have classified correctly.
    fn by(&self, fault: &Fault) -> Result<String> {
        let mut counts = [0, 0];
        let mut times = Vec::new();
        let mut reason = "";
        for ((index, flavour), recovery) in &self.0 {
            if FAULTS[*index].name != fault.name {
                continue;
            }
            ensure!(
                recovery.reason.contains(fault.reason),
                "the host took it for: {}",
                recovery.reason
            );
            counts[*flavour as usize] += 1;
            times.push(recovery.took_us);
            reason = &recovery.reason;
        }
        let [recurring, once] = counts;
        ensure!(
            recurring >= 2,
            "an entry that crashes every instance has crashed only {recurring}"
        );
        let times = Spread::of(times).context("it was not met")?;
        Ok(format!(
            "{recurring} by a recurring one, {once} by one that passes: {reason}; recovered within {:.2} ms",
            times.max as f64 / 1e3
        ))
    }

    fn sum(&self, lost: fn(&Recovery) -> u64) -> u64 {
        self.0.iter().map(|(_, recovery)| lost(recovery)).sum()
    }
}

impl fmt::Display for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, and each time a fresh instance continued",
            self.0.len()
        )?;
        match Spread::of(self.0.iter().map(|(_, r)| r.took_us)) {
            Some(times) => write!(f, ", after {times}"),
            None => Ok(()),
        }
    }
}

/// Reports the losses: packets that were in the device at a crash. TCP has
/// retransmitted them.
fn report_losses(report: &Report, outcome: &Outcome, crashes: &Crashes) -> Result<()> {
    let (to_guest, from_guest) = (&outcome.to_guest, &outcome.from_guest);
    // A packet that crashes the device again is skipped.
    let transmits = crashes.sum(|r| r.lost_transmits + u64::from(r.skipped > 0));
    let receives = crashes.sum(|r| r.lost_receives);
    for (name, way, inside) in [
        ("to guest", to_guest, receives),
        ("from guest", from_guest, transmits),
    ] {
        report.step(name, || {
            way.check_bytes()?;
            let Tally {
                lost,
                doubled,
                reordered,
                corrupt,
                ..
            } = way.0.datagrams;
            ensure!(
                [doubled, reordered, corrupt] == [0; 3] && lost <= inside,
                "datagrams: {}; {inside} packets were in the device at its crashes",
                way.0.datagrams
            );
            Ok(format!(
                "{way}; at most {inside} packets were in the device"
            ))
        })?;
    }
    Ok(())
}

fn unaffected(outcome: &Outcome) -> Result<String> {
    for way in [&outcome.to_guest, &outcome.from_guest] {
        way.check_datagrams()?;
        way.check_bytes()?;
    }
    Ok(format!(
        "the other adapter lost nothing. To the guest: {}. From it: {}",
        outcome.to_guest, outcome.from_guest
    ))
}
