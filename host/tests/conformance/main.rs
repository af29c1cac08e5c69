//! The conformance suite on the component in the host, over both memory
//! paths: copies, and ring windows.

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

fn trial(requirement: &'static Requirement, kind: &str, windows: bool) -> Trial {
    let run = move || {
        let component = COMPONENT.clone();
        let outcome = requirement.run(&HostWorkshop { component, windows });
        outcome
            .map_err(|failure| Failed::from(format!("{failure}\n  from: {}", requirement.source)))
    };
    Trial::test(requirement.name, run).with_kind(kind)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let copies = suite::requirements().map(|r| trial(r, "copies", false));
    let windows = suite::requirements().map(|r| trial(r, "windows", true));
    libtest_mimic::run(&arguments, copies.chain(windows).collect()).exit_code()
}
