//! Crashes the device in every way under a stock Linux guest, while it talks.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use manatee_guest_linux::checks;
use manatee_guest_linux::control::Recovery;
use manatee_guest_linux::deadline::Deadline;
use manatee_guest_linux::lab::{Device, Lab, Parts, Plan};
use manatee_guest_linux::opening;
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
};

/// What goes wrong, in people's words and in those of `component/src/faults.rs`.
const FAULTS: [(&str, &str); 5] = [
    ("trap", "Trap"),
    ("endless loop", "Loop"),
    ("endless growth", "Grow"),
    ("corrupt tables", "Corrupt"),
    ("garbage to the host", "Garbage"),
];

/// Whether an entry of the queue crashes the device whenever it is met, or only
/// the first time.
const FLAVOURS: [&str; 2] = ["Recurring", "Once"];

/// How many datagrams have to come both ways between two looks at the device.
const BETWEEN: u64 = 100;

/// How long these may take.
const WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to meet every fault.
const ALL_WITHIN: Duration = Duration::from_secs(300);

/// Crashes the device in every way under a stock Linux guest that talks.
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
    let recoveries = report.step_with("crashes", || crash(lab, &traffic))?;
    report.step("guest", || {
        lab.check_serve()?;
        let now = lab.health()?;
        ensure!(now == healthy, "the guest was {healthy:?} and is {now:?}");
        let pid = lab.serve_pids()[0];
        Ok(format!(
            "saw no reset and no link change; `manatee serve` is still process {pid}"
        ))
    })?;
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
    report_losses(report, &crashed, &recoveries)?;
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

/// Lets the traffic run until each fault was met, and has the guest answer all along.
fn crash(lab: &mut Lab, traffic: &Traffic) -> Result<(Vec<Recovery>, String)> {
    let control = lab.control(0)?;
    let deadline = Deadline::after(ALL_WITHIN);
    loop {
        traffic.wait_for_more(BETWEEN, WITHIN)?;
        let Parts { vm, ports, .. } = lab.parts()?;
        checks::wait_reachable(vm, ports[0].tap.subnet())?;
        lab.check_serve()?;
        let met = Met::so_far(lab.log(0)?);
        let state: String = control.inspect("runtime/state")?;
        ensure!(state == "running", "the device is {state}, after {met}");
        let recoveries: Vec<Recovery> = control.inspect("runtime/recoveries")?;
        if met.all() && recoveries.len() >= met.total() {
            let words = sum_up(&met, &recoveries);
            return Ok((recoveries, words));
        }
        ensure!(
            deadline.remaining().is_some(),
            "within {ALL_WITHIN:?}, the device met only {met}, and recovered {} times",
            recoveries.len()
        );
    }
}

/// How often the device met each fault, by flavour.
struct Met([[usize; FLAVOURS.len()]; FAULTS.len()]);

impl Met {
    /// The component says so when it meets one.
    fn so_far(log: &Transcript) -> Self {
        let log = log.tail(usize::MAX);
        Self(FAULTS.map(|(_, fault)| {
            FLAVOURS.map(|flavour| {
                log.matches(&format!("seeded fault {fault} {flavour} at "))
                    .count()
            })
        }))
    }

    fn all(&self) -> bool {
        self.0.as_flattened().iter().all(|count| *count > 0)
    }

    fn total(&self) -> usize {
        self.0.as_flattened().iter().sum()
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((name, _), [recurring, once])) in FAULTS.iter().zip(self.0).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {recurring}+{once}")?;
        }
        Ok(())
    }
}

fn sum_up(met: &Met, recoveries: &[Recovery]) -> String {
    let pause = Spread::of(recoveries.iter().map(|recovery| recovery.from_trap_us));
    format!(
        "{} (recurring+once: {met}), all recovered from: {}",
        met.total(),
        pause.map(|pause| pause.to_string()).unwrap_or_default()
    )
}

/// What was lost was in the device at a crash, and TCP made good for it.
fn report_losses(report: &Report, outcome: &Outcome, recoveries: &[Recovery]) -> Result<()> {
    let (to_guest, from_guest) = (&outcome.to_guest, &outcome.from_guest);
    let inside = |lost: fn(&Recovery) -> u64| recoveries.iter().map(lost).sum::<u64>();
    // A packet that crashes the device again is passed over.
    let transmits = inside(|r| r.lost_transmits + u64::from(r.skipped > 0));
    let receives = inside(|r| r.lost_receives);
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
        "the other adapter lost nothing: to the guest {}; from it {}",
        outcome.to_guest, outcome.from_guest
    ))
}
