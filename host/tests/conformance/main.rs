//! The conformance suite on the component in the host: over copies, over ring
//! windows, and with the component replaced after every call.

mod bench;
mod wire;

use std::process::ExitCode;
use std::sync::LazyLock;

use bench::HostWorkshop;
use libtest_mimic::{Arguments, Failed, Trial};
use manatee::component::Component;
use manatee_conformance::suite::{self, Requirement};

static COMPONENT: LazyLock<Component> =
    LazyLock::new(|| Component::embedded().expect("the embedded component is a device"));

fn trial(requirement: &'static Requirement, kind: &str, windows: bool, swaps: bool) -> Trial {
    let run = move || {
        let outcome = requirement.run(&HostWorkshop {
            component: COMPONENT.clone(),
            windows,
            swaps,
        });
        outcome
            .map_err(|failure| Failed::from(format!("{failure}\n  from: {}", requirement.source)))
    };
    Trial::test(requirement.name, run).with_kind(kind)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let kinds = [
        ("copies", false, false),
        ("windows", true, false),
        ("swaps", true, true),
    ];
    let trials = kinds.iter().flat_map(|(kind, windows, swaps)| {
        suite::requirements().map(|r| trial(r, kind, *windows, *swaps))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
