//! The beginning of every demonstration, up to a guest on the network with traffic, and
//! the checks that the guest noticed nothing.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::checks::{self, Health};
use crate::lab::{Lab, Parts, Plan};
use crate::report::Report;
use crate::stage::{Options, Stage};
use crate::traffic::{SETTINGS, Traffic, Way};

/// Makes the network of a set-up.
pub fn network(report: &Report, stage: &Arc<Stage>, plan: Plan) -> Result<Lab> {
    report.step_with("network", || {
        let lab = Lab::new(stage, plan)?;
        let taps: Vec<String> = (0..plan.ports).map(|n| format!("tap{n}")).collect();
        let (s, taps) = (if plan.ports == 1 { "" } else { "s" }, taps.join(", "));
        let words = format!("a network namespace of its own with the TAP interface{s} {taps}");
        Ok((lab, words))
    })
}

/// Starts everything in it, with `components` in the processes in their order, up to
/// a guest that answers.
pub fn guest(report: &Report, lab: &mut Lab, plan: Plan, components: &[&Path]) -> Result<()> {
    report.step("manatee", || {
        lab.start_serve_with(components)?;
        Ok(match plan.apart {
            false => "`manatee serve` is ready for a virtual machine".to_owned(),
            true => format!(
                "{} processes `manatee serve` are ready for a virtual machine",
                plan.ports
            ),
        })
    })?;
    report.step("boot", || {
        let kernel = lab.start_vm()?;
        Ok(format!("QEMU is attached, and Linux {kernel} is up"))
    })?;
    report.step("driver", || load_driver(lab, plan))?;
    report.step("addresses", || {
        lab.configure()?;
        Ok("the guest's first packets are answered".to_owned())
    })
}

/// Checks that a guest, which was `healthy`, has noticed nothing, and that the same
/// processes serve it.
pub fn unaware(lab: &mut Lab, healthy: &[Health]) -> Result<String> {
    lab.check_serve()?;
    let pid = lab.serve_pids()[0];
    let words = same_guest(lab, healthy)?;
    Ok(format!("{words}; `manatee serve` is still process {pid}"))
}

/// Checks that a guest, which was `healthy`, has noticed nothing.
pub fn same_guest(lab: &mut Lab, healthy: &[Health]) -> Result<String> {
    let now = lab.health()?;
    ensure!(now == healthy, "the guest was {healthy:?} and is {now:?}");
    Ok("saw no reset and no link change".to_owned())
}

/// Sets a stage for a demonstration of `what`, and carries out its steps in a lab that was prepared
/// for it. A failure comes with the ends of the logs.
pub fn perform(
    what: &str,
    options: &Options,
    plan: Plan,
    prepare: impl FnOnce(&mut Lab),
    steps: impl FnOnce(&Report, &mut Lab) -> Result<()>,
) -> Result<()> {
    let stage = Arc::new(Stage::set(options)?);
    let kernel = &stage.kernel.release;
    let report = Report::begin(&format!("{what} under a stock Linux {kernel}"));
    let mut lab = network(&report, &stage, plan)?;
    prepare(&mut lab);
    match steps(&report, &mut lab) {
        Ok(()) => {
            println!("  all of it in {}", report.total());
            Ok(())
        }
        Err(error) => Err(lab.with_evidence(error)),
    }
}

/// Starts traffic on the guest's first port.
pub fn talk(report: &Report, lab: &mut Lab) -> Result<Traffic> {
    report.step_with("traffic", || {
        let Parts { vm, ports, .. } = lab.parts()?;
        let traffic = Traffic::start(vm, &ports[0])?;
        let words = format!(
            "{} datagrams a second of {} bytes, and TCP at full speed, both ways at once",
            SETTINGS.rate, SETTINGS.size
        );
        Ok((traffic, words))
    })
}

/// Ends the traffic, and checks that all of it arrived, both ways.
pub fn all_arrived(report: &Report, lab: &mut Lab, traffic: Traffic) -> Result<()> {
    finish(report, lab, traffic, |way| {
        way.check_datagrams()?;
        way.check_bytes()?;
        Ok(way.to_string())
    })
}

/// Ends the traffic, and checks each direction, of which `check` returns what to report.
pub fn finish(
    report: &Report,
    lab: &mut Lab,
    traffic: Traffic,
    check: impl Fn(&Way) -> Result<String>,
) -> Result<()> {
    let outcome = report.step_with("end of it", || {
        let Parts { vm, ports, .. } = lab.parts()?;
        let outcome = traffic.finish(vm, &ports[0])?;
        Ok((outcome, "both ends have told what they received".to_owned()))
    })?;
    for (name, way) in [
        ("to guest", outcome.to_guest),
        ("from guest", outcome.from_guest),
    ] {
        report.step(name, || check(&way))?;
    }
    Ok(())
}

fn load_driver(lab: &mut Lab, plan: Plan) -> Result<String> {
    lab.load_driver()?;
    let Parts { vm, ports, .. } = lab.parts()?;
    let mut words = Vec::new();
    for port in ports {
        let driver = checks::driver_is(vm, &port.interface, plan.device.driver())?;
        words.push(format!(
            "{} has the MAC {}, and ethtool says {driver}",
            port.interface, port.mac
        ));
    }
    Ok(words.join("; "))
}
