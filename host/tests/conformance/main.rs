//! The conformance suite on the component in the host: over copies, over ring
//! windows, with the component replaced after every call, with the whole device handed over
//! after every call, and through wasmtime's component model.

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

/// A way to run the suite.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    windows: bool,
    direct: bool,
    swaps: bool,
    hand_overs: bool,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "copies",
        windows: false,
        direct: true,
        swaps: false,
        hand_overs: false,
    },
    Kind {
        name: "windows",
        windows: true,
        direct: true,
        swaps: false,
        hand_overs: false,
    },
    Kind {
        name: "swaps",
        windows: true,
        direct: true,
        swaps: true,
        hand_overs: false,
    },
    Kind {
        name: "hand-overs",
        windows: true,
        direct: true,
        swaps: false,
        hand_overs: true,
    },
    Kind {
        name: "component-model",
        windows: true,
        direct: false,
        swaps: false,
        hand_overs: false,
    },
];

fn trial(requirement: &'static Requirement, kind: Kind) -> Trial {
    let run = move || {
        let outcome = requirement.run(&HostWorkshop {
            component: COMPONENT.clone(),
            windows: kind.windows,
            direct: kind.direct,
            swaps: kind.swaps,
            hand_overs: kind.hand_overs,
        });
        outcome
            .map_err(|failure| Failed::from(format!("{failure}\n  from: {}", requirement.source)))
    };
    Trial::test(requirement.name, run).with_kind(kind.name)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = KINDS
        .iter()
        .flat_map(|kind| suite::requirements().map(|r| trial(r, *kind)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
