//! Shows a stock Linux guest on the network through the wasm device.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use manatee_guest_linux::checks::{self, Ping};
use manatee_guest_linux::lab::{Device, Lab, Parts, Plan};
use manatee_guest_linux::netns::Family;
use manatee_guest_linux::report::Report;
use manatee_guest_linux::stage::{Options, Stage};
use manatee_guest_linux::tcp;

/// What goes through TCP each way.
const TCP_BYTES: usize = 64 << 20;

const PLAN: Plan = Plan {
    device: Device::Manatee,
    ports: 1,
    cpus: 1,
};

/// Boots a stock Linux guest on the wasm device and checks its network.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match show(&Arguments::parse().options) {
        Ok(()) => {
            println!("demo: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}\ndemo: failed");
            ExitCode::FAILURE
        }
    }
}

fn show(options: &Options) -> Result<()> {
    let stage = Arc::new(Stage::set(options)?);
    let report = Report::begin(&format!(
        "A stock Linux {} on the network through the wasm device",
        stage.kernel.release
    ));
    let mut lab = report.step_with("network", || {
        let lab = Lab::new(&stage, PLAN)?;
        Ok((
            lab,
            "a network namespace of its own with the TAP interface tap0".to_owned(),
        ))
    })?;
    match steps(&report, &mut lab) {
        Ok(()) => {
            println!("  all of it in {}", report.total());
            Ok(())
        }
        Err(error) => Err(lab.with_evidence(error)),
    }
}

fn steps(report: &Report, lab: &mut Lab) -> Result<()> {
    report.step("manatee", || {
        lab.start_serve()?;
        Ok("`manatee serve` is ready for a virtual machine".to_owned())
    })?;
    report.step("boot", || {
        let kernel = lab.start_vm()?;
        Ok(format!("QEMU is attached, and Linux {kernel} is up"))
    })?;
    report.step("driver", || load_driver(lab))?;
    report.step("addresses", || {
        lab.configure()?;
        Ok("the guest's first packets are answered".to_owned())
    })?;
    for family in Family::BOTH {
        report.step(&format!("ping {family}"), || ping(lab, family))?;
    }
    report.step("TCP", || transfer(lab))?;
    report.step("end", || {
        lab.stop()?;
        Ok("`manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

fn load_driver(lab: &mut Lab) -> Result<String> {
    lab.load_driver()?;
    let Parts { vm, ports, .. } = lab.parts()?;
    let port = &ports[0];
    let driver = checks::driver_is(vm, &port.interface, PLAN.device.driver())?;
    Ok(format!(
        "{} has the MAC {}, and ethtool says {driver}",
        port.interface, port.mac
    ))
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
