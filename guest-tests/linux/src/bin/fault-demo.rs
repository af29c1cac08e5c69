//! Crashes the device in every way under a stock Linux guest, while it talks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use manatee_guest_linux::checks;
use manatee_guest_linux::control::{Control, Recovery};
use manatee_guest_linux::deadline::Deadline;
use manatee_guest_linux::lab::{Device, Lab, Parts, Plan};
use manatee_guest_linux::opening;
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::spread::Spread;
use manatee_guest_linux::stage::{Options, Stage};
use manatee_guest_linux::traffic::{Outcome, SETTINGS, Traffic};

/// Two adapters of one guest, of which the first crashes.
const PLAN: Plan = Plan {
    device: Device::Manatee,
    ports: 2,
    apart: true,
    cpus: 1,
};

/// A fault that the component is seeded with, and how its crash is told from others'.
struct Fault {
    /// What goes wrong.
    name: &'static str,
    /// What the reason for its crash holds.
    sign: &'static str,
}

/// The faults of `component/src/faults.rs`.
const FAULTS: [Fault; 5] = [
    Fault {
        name: "trap",
        sign: "faults::trap",
    },
    Fault {
        name: "endless loop",
        sign: "faults::loop_for_ever",
    },
    Fault {
        name: "endless growth",
        sign: "faults::grow_for_ever",
    },
    Fault {
        name: "corrupt tables",
        sign: "contradiction",
    },
    Fault {
        name: "garbage to the host",
        sign: "segments",
    },
];

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
        let recoveries: Vec<Recovery> = control.inspect("runtime/recoveries")?;
        let missing = FAULTS.iter().filter(|fault| fault.count(&recoveries) == 0);
        let missing: Vec<&str> = missing.map(|fault| fault.name).collect();
        if missing.is_empty() {
            check_running(&control, recoveries.len())?;
            lab.check_serve()?;
            let words = sum_up(&recoveries);
            return Ok((recoveries, words));
        }
        ensure!(
            deadline.remaining().is_some(),
            "within {ALL_WITHIN:?}, no crash by {}",
            missing.join(", ")
        );
    }
}

impl Fault {
    fn count(&self, recoveries: &[Recovery]) -> usize {
        let mine = recoveries.iter().filter(|r| r.reason.contains(self.sign));
        mine.count()
    }
}

fn check_running(control: &Control, recovered: usize) -> Result<()> {
    let state: String = control.inspect("runtime/state")?;
    ensure!(state == "running", "the device is {state}");
    let failures: usize = control.inspect("runtime/failures")?;
    ensure!(
        failures >= recovered,
        "{recovered} recoveries from {failures} failures"
    );
    Ok(())
}

fn sum_up(recoveries: &[Recovery]) -> String {
    let counts: Vec<String> = FAULTS
        .iter()
        .map(|fault| format!("{} {}", fault.count(recoveries), fault.name))
        .collect();
    let pause = Spread::of(recoveries.iter().map(|recovery| recovery.from_trap_us));
    format!(
        "{} ({}), each recovered from; to the next packet {}",
        recoveries.len(),
        counts.join(", "),
        pause.map(|pause| pause.to_string()).unwrap_or_default()
    )
}

/// What was lost was in the device at a crash, and TCP made good for it.
fn report_losses(report: &Report, outcome: &Outcome, recoveries: &[Recovery]) -> Result<()> {
    let (to_guest, from_guest) = (&outcome.to_guest, &outcome.from_guest);
    let inside = |lost: fn(&Recovery) -> u64| recoveries.iter().map(lost).sum::<u64>();
    for (name, way, inside) in [
        ("to guest", to_guest, inside(|r| r.lost_receives)),
        ("from guest", from_guest, inside(|r| r.lost_transmits)),
    ] {
        report.step(name, || {
            way.check_bytes()?;
            let lost = way.0.datagrams.lost;
            ensure!(
                lost <= inside,
                "{lost} datagrams were lost, and {inside} packets were in the device"
            );
            Ok(format!(
                "{way}; {inside} packets were in the device at a crash"
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
