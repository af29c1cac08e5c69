//! How every demonstration begins, from nothing to a guest on the network, and
//! what the guest may not notice of it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::checks::{self, Health};
use crate::lab::{Lab, Parts, Plan};
use crate::report::Report;
use crate::stage::Stage;

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

/// Checks that neither a guest, which was `healthy`, nor the processes that serve it
/// have noticed anything.
pub fn unaware(lab: &mut Lab, healthy: &[Health]) -> Result<String> {
    lab.check_serve()?;
    let now = lab.health()?;
    ensure!(now == healthy, "the guest was {healthy:?} and is {now:?}");
    let pid = lab.serve_pids()[0];
    Ok(format!(
        "saw no reset and no link change; `manatee serve` is still process {pid}"
    ))
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
