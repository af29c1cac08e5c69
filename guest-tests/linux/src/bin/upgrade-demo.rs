//! Replaces the process that serves a stock Linux guest with traffic, again and again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use manatee_guest_linux::assets::beside_this_program;
use manatee_guest_linux::lab::{Lab, Plan};
use manatee_guest_linux::opening::{self, all_arrived, same_guest, talk};
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::spread::Spread;
use manatee_guest_linux::stage::Options;
use manatee_guest_linux::traffic::Traffic;

const PLAN: Plan = Plan::ONE_PORT;

/// How many datagrams have to arrive both ways between two upgrades.
const BETWEEN: u64 = 20;

/// How long these may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Replaces the process that serves a stock Linux guest with traffic, and counts what is
/// lost.
#[derive(Parser)]
#[command(name = "upgrade-demo")]
struct Arguments {
    /// How many times the process is replaced
    #[arg(long, default_value_t = 50)]
    upgrades: usize,
    /// The build of `manatee` that takes turns with the one under test
    /// [default: `manatee-first-format` beside this program]
    #[arg(long, value_name = "PATH")]
    other: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("upgrade-demo", show(&Arguments::parse()))
}

fn show(arguments: &Arguments) -> Result<()> {
    let what = format!("{} replacements of the process", arguments.upgrades);
    opening::perform(&what, &arguments.options, PLAN, Lab::keep, |report, lab| {
        steps(report, lab, arguments)
    })
}

fn steps(report: &Report, lab: &mut Lab, arguments: &Arguments) -> Result<()> {
    let programs = programs(lab, arguments)?;
    opening::guest(report, lab, PLAN, &[])?;
    let healthy = lab.health()?;
    let traffic = talk(report, lab)?;
    report.step("upgrades", || {
        let words = upgrade(lab, &traffic, &programs, arguments.upgrades)?;
        lab.check_serve()?;
        Ok(words)
    })?;
    report.step("guest", || {
        let words = same_guest(lab, &healthy)?;
        Ok(format!("{words}; QEMU is still connected"))
    })?;
    all_arrived(report, lab, traffic)?;
    report.step("end", || {
        lab.stop()?;
        Ok("the keeper and `manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

/// Returns the programs that alternate: a build of another version, whose states have another
/// format, and the one under test.
fn programs(lab: &Lab, arguments: &Arguments) -> Result<[PathBuf; 2]> {
    let own = lab.stage().manatee.clone();
    let other = match &arguments.other {
        Some(other) => other.clone(),
        None => beside_this_program("manatee-first-format", "upgrade-demo")?,
    };
    Ok([other, own])
}

/// Alternates the programs.
fn upgrade(
    lab: &Lab,
    traffic: &Traffic,
    programs: &[PathBuf; 2],
    upgrades: usize,
) -> Result<String> {
    let (control, keeper) = (lab.control(0)?, lab.keeper(0)?);
    let (mut pauses, mut took) = (Vec::new(), Vec::new());
    let mut versions = BTreeSet::new();
    let mut before: u32 = control.inspect("process/id")?;
    for number in 1..=upgrades {
        traffic.wait_for_more(BETWEEN, WITHIN)?;
        let program = &programs[(number - 1) % 2];
        let upgraded = keeper.upgrade(program);
        let upgraded = upgraded.with_context(|| format!("upgrade {number} of {upgrades}"))?;
        ensure!(upgraded.handed_over, "the device was not handed over");
        ensure!(upgraded.rehearsed, "the next process has not rehearsed");
        versions.insert(upgraded.version);
        let running: u32 = control.inspect("process/id")?;
        ensure!(
            running == upgraded.process && running != before,
            "process {running} serves after {before}"
        );
        before = running;
        let count: usize = control.inspect("runtime/hand_over_count")?;
        ensure!(
            count == number,
            "{count} hand-overs are counted, not {number}"
        );
        pauses.push(control.inspect("runtime/hand_over_pause_us")?);
        took.push(upgraded.took_us);
    }
    traffic.wait_for_more(BETWEEN, WITHIN)?;
    let pauses = Spread::of(pauses).context("no upgrade was made")?;
    let took = Spread::of(took).context("no upgrade was made")?;
    ensure!(
        upgrades < 2 || versions.len() == 2,
        "of two builds only {versions:?} have served"
    );
    let versions: Vec<_> = versions.into_iter().collect();
    Ok(format!(
        "{upgrades}, {} in turn: pause {pauses}; from the end of one to the next {took}",
        versions.join(" and ")
    ))
}
