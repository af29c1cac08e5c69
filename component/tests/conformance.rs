//! The conformance suite on a native device: without windows, with them, and
//! with every call followed by a save and a restore into a new device.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use manatee_conformance::native::NativeWorkshop;
use manatee_conformance::suite::{self, Requirement};

fn trial(requirement: &'static Requirement, kind: &str, workshop: NativeWorkshop) -> Trial {
    let run = move || {
        let outcome = requirement.run(&workshop);
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
        ("moves", true, true),
    ];
    let trials = kinds.iter().flat_map(|(kind, windows, moves)| {
        let workshop = NativeWorkshop {
            windows: *windows,
            moves: *moves,
        };
        suite::requirements().map(move |r| trial(r, kind, workshop))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
