//! Checks that the list of faults matches the device's source.

use std::fs;
use std::path::Path;

use manatee_mutants::fault::{self, Fault};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn faults() -> Vec<Fault> {
    fault::parse(&read("guest-tests/mutants/faults.toml")).unwrap()
}

#[test]
fn no_fault_is_stale() {
    let stale = |fault: &Fault| fault.apply(&read(&fault.file)).err();
    let stale: Vec<_> = faults().iter().filter_map(stale).collect();
    assert!(stale.is_empty(), "{stale:#?}");
}

#[test]
fn what_survives_is_in_the_docs() {
    let docs = read("docs/conformance.md");
    for fault in faults().iter().filter(|fault| fault.accepted.is_some()) {
        assert!(
            docs.contains(&format!("`{}`", fault.name)),
            "{}",
            fault.name
        );
    }
}
