//! Shows a stock Linux guest on the network through the wasm device.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use manatee_guest_linux::checks::{self, Ping};
use manatee_guest_linux::lab::{Lab, Parts, Plan};
use manatee_guest_linux::netns::Family;
use manatee_guest_linux::opening;
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::stage::{Options, Stage};
use manatee_guest_linux::tcp;

/// Bytes sent over TCP in each direction.
const TCP_BYTES: usize = 64 << 20;

const PLAN: Plan = Plan::ONE_PORT;

/// Boots a stock Linux guest on the wasm device and checks its network.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("demo", show(&Arguments::parse().options))
}

fn show(options: &Options) -> Result<()> {
    let stage = Arc::new(Stage::set(options)?);
    let report = Report::begin(&format!(
        "A stock Linux {} on the network through the wasm device",
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
    opening::guest(report, lab, PLAN, &[])?;
    for family in Family::BOTH {
        report.step(&format!("ping {family}"), || ping(lab, family))?;
    }
    report.step("TCP", || transfer(lab))?;
    report.step("end", || {
        lab.stop()?;
        Ok("`manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

fn ping(lab: &mut Lab, family: Family) -> Result<String> {
    let Parts { vm, ports, assets } = lab.parts()?;
    checks::ping_both_ways(assets, vm, ports[0].tap.subnet(), family, Ping::default())
}

fn transfer(lab: &mut Lab) -> Result<String> {
    let Parts { vm, ports, .. } = lab.parts()?;
    let (there, back) = tcp::there_and_back(vm, ports[0].tap.subnet(), Family::V4, TCP_BYTES)?;
    Ok(format!(
        "to the guest {there}; from it {back}; SHA-256 equal both times"
    ))
}
