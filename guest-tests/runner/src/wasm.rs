//! The runner as a component.

use alloc::format;
use alloc::string::String;

use manatee_conformance::suite::{find, requirements};

use crate::arguments::{Arguments, HELP};
use crate::bindings::exports::manatee::testbed::elsewhere;
use crate::bindings::exports::wasi::cli::run;
use crate::bindings::wasi::cli::environment::get_arguments;
use crate::device::attempt;
use crate::output::print;
use crate::report::{self, Outcome, Report};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print(&format!("FAILED\n\nthe test itself failed: {info}\n"));
    core::arch::wasm32::unreachable()
}

struct Runner;

impl elsewhere::Guest for Runner {
    fn attempt(requirement: String) -> Option<Outcome> {
        attempt(find(&requirement)?)
    }
}

impl run::Guest for Runner {
    fn run() -> Result<(), ()> {
        match execute() {
            Ok(true) => Ok(()),
            Ok(false) => Err(()),
            Err(mistake) => {
                print(&format!("error: {mistake}\n"));
                Err(())
            }
        }
    }
}

/// Carries out the command line. Returns whether every requirement was met.
fn execute() -> Result<bool, String> {
    let arguments = Arguments::parse(get_arguments().into_iter().skip(1))?;
    if arguments.help {
        print(HELP);
        return Ok(true);
    }
    let selected = arguments.select()?;
    if arguments.list {
        print(&report::list(&selected, arguments.format));
        return Ok(true);
    }
    let filtered_out = requirements().count() - selected.len();
    let (mut report, text) = Report::begin(arguments.format, selected.len(), filtered_out);
    print(&text);
    for requirement in selected {
        print(&report.attempt(requirement));
        let outcome = attempt(requirement).unwrap_or_else(|| {
            let ports = requirement.ports;
            Err(format!("no device is left that could have {ports} ports"))
        });
        print(&report.result(requirement, outcome));
    }
    print(&report.summary());
    Ok(report.is_ok())
}

#[allow(unsafe_code)]
mod export {
    use super::Runner;
    crate::bindings::export!(Runner with_types_in crate::bindings);
}
