//! Replaces the device under a stock Linux guest with traffic, again and again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use manatee_guest_linux::control::{Control, Swap};
use manatee_guest_linux::lab::{Lab, Plan};
use manatee_guest_linux::opening::{self, all_arrived, talk, unaware};
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::spread::Spread;
use manatee_guest_linux::stage::Options;
use manatee_guest_linux::traffic::Traffic;

const PLAN: Plan = Plan::ONE_PORT;

/// How many datagrams have to arrive both ways between two swaps.
const BETWEEN: u64 = 20;

/// How long these may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Replaces the device under a stock Linux guest with traffic, and counts what is lost.
#[derive(Parser)]
#[command(name = "swap-demo")]
struct Arguments {
    /// How many times the device is replaced
    #[arg(long, default_value_t = 100)]
    swaps: usize,
    /// Replace nothing, and only show that the rest of the set-up loses nothing either
    #[arg(long)]
    control_run: bool,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("swap-demo", show(&Arguments::parse()))
}

fn show(arguments: &Arguments) -> Result<()> {
    let what = match arguments.control_run {
        false => format!("{} replacements of the device", arguments.swaps),
        true => "No replacement of the device".to_owned(),
    };
    let options = &arguments.options;
    opening::perform(
        &what,
        options,
        PLAN,
        |_| {},
        |report, lab| steps(report, lab, arguments),
    )
}

fn steps(report: &Report, lab: &mut Lab, arguments: &Arguments) -> Result<()> {
    let builds = Builds::write(lab.stage().sandbox.run_dir())?;
    opening::guest(report, lab, PLAN, &[])?;
    let healthy = lab.health()?;
    let traffic = talk(report, lab)?;
    report.step("swaps", || {
        let control = lab.control(0)?;
        let words = match arguments.control_run {
            false => swap(&control, &traffic, &builds, arguments.swaps)?,
            true => wait(&traffic, arguments.swaps)?,
        };
        lab.check_serve()?;
        Ok(words)
    })?;
    report.step("guest", || unaware(lab, &healthy))?;
    all_arrived(report, lab, traffic)?;
    report.step("end", || {
        lab.stop()?;
        Ok("`manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

/// The two builds that alternate, as files.
struct Builds {
    /// The one that is built into `manatee`, which is first.
    own: PathBuf,
    /// The same code with another version.
    next: PathBuf,
}

impl Builds {
    fn write(dir: &Path) -> Result<Self> {
        let builds = Self {
            own: dir.join("device.wasm"),
            next: dir.join("next.wasm"),
        };
        fs::write(&builds.own, manatee_component::BYTES)?;
        fs::write(&builds.next, manatee_variants::NEXT)?;
        Ok(builds)
    }
}

/// Alternates the builds. Each is checked before its first use.
fn swap(control: &Control, traffic: &Traffic, builds: &Builds, swaps: usize) -> Result<String> {
    let mut done = Vec::new();
    for number in 0..swaps {
        traffic.wait_for_more(BETWEEN, WITHIN)?;
        let wasm = [&builds.next, &builds.own][number % 2];
        let swap = control.swap(wasm, number < 2);
        let swap = swap.with_context(|| format!("swap {} of {swaps}", number + 1))?;
        ensure!(swap.from != swap.to, "{} replaces itself", swap.to);
        let running: String = control.inspect("component/version")?;
        let wanted = &swap.to;
        ensure!(
            running == *wanted,
            "{running} runs after a swap to {wanted}"
        );
        done.push(swap);
    }
    traffic.wait_for_more(BETWEEN, WITHIN)?;
    sum_up(&done)
}

fn sum_up(swaps: &[Swap]) -> Result<String> {
    let pause = Spread::of(swaps.iter().map(|swap| swap.pause_us)).context("no swap was made")?;
    let state = swaps.iter().map(|swap| swap.state_bytes).max();
    Ok(format!(
        "{}, {} and {} in turn: pause {pause}; state at most {} bytes",
        swaps.len(),
        swaps[0].to,
        swaps[0].from,
        state.unwrap_or_default()
    ))
}

/// Lets the traffic continue for about as long as this many swaps take.
fn wait(traffic: &Traffic, swaps: usize) -> Result<String> {
    for _ in 0..swaps {
        traffic.wait_for_more(5 * BETWEEN, WITHIN)?;
    }
    Ok("none".to_owned())
}
