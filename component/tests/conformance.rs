//! The conformance suite on a native device, without windows and with them.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use manatee_conformance::native::NativeWorkshop;
use manatee_conformance::suite::{self, Requirement};

fn trial(requirement: &'static Requirement, kind: &str, windows: bool) -> Trial {
    let run = move || {
        let outcome = requirement.run(&NativeWorkshop { windows });
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
