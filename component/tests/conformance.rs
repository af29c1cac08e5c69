//! The conformance suite on a native device: without windows, with them, with several
//! queues a port, and with every call followed by a save and a restore into a new
//! device. Requirements of several queues run only where a port has several.

use std::process::ExitCode;

use device_kit::platform::Features;
use libtest_mimic::{Arguments, Failed, Trial};
use manatee_conformance::bench::QUEUES;
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
    let one = NativeWorkshop::default();
    let many = NativeWorkshop {
        queues: QUEUES,
        offered: Features::all(),
        ..one
    };
    let by_copies = |workshop| NativeWorkshop {
        windows: false,
        ..workshop
    };
    let moves = |workshop| NativeWorkshop {
        moves: true,
        ..workshop
    };
    let of_one = [("copies", by_copies(one)), ("windows", one)];
    let of_one = of_one.into_iter().flat_map(|(kind, workshop)| {
        let all = suite::requirements();
        all.map(move |it| trial(it, kind, workshop))
    });
    let of_many = [
        ("queues, copies", by_copies(many)),
        ("queues", many),
        ("queues, moves", moves(many)),
    ];
    let of_many = of_many.into_iter().flat_map(|(kind, workshop)| {
        let all = suite::requirements().chain(suite::of_several_queues());
        all.map(move |it| trial(it, kind, workshop))
    });
    let trials = of_one.chain(of_many).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
