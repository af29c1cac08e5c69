//! The dependencies that the library adds to an embedder's tree, and those that it must not.

use std::collections::BTreeSet;
use std::process::Command;

/// Returns the direct and indirect dependencies of a package, without those for
/// builds and tests.
fn dependencies_of(package: &str, features: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}", "--package", package])
        .args(features)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines().filter_map(name).collect()
}

/// Checks that a package depends on none of `others`.
fn has_none_of(package: &str, features: &[&str], others: &[&str]) {
    let dependencies = dependencies_of(package, features);
    assert!(dependencies.contains(package), "{dependencies:?}");
    for other in others {
        assert!(!dependencies.contains(*other), "{package} has {other}");
    }
}

const COMMAND_LINE: [&str; 2] = ["clap", "tracing-subscriber"];
const RUNTIMES: [&str; 3] = ["tokio", "wasmtime-wasi", "wac-graph"];
const TESTS: [&str; 4] = [
    "manatee-conformance",
    "manatee-compose",
    "manatee-testbed",
    "manatee-variants",
];

#[test]
fn library_is_no_application() {
    for others in [&COMMAND_LINE[..], &RUNTIMES, &TESTS] {
        has_none_of("manatee", &[], others);
    }
    has_none_of(
        "manatee",
        &["--no-default-features"],
        &[
            "manatee-vfio-user",
            "vfio-bindings",
            "cranelift-codegen",
            "wasmtime-internal-cranelift",
            "io-uring",
        ],
    );
}

#[test]
fn vfio_user_and_control_know_no_device() {
    for package in ["manatee-vfio-user", "manatee-control", "manatee-common"] {
        has_none_of(package, &[], &["manatee", "wasmtime", "clap"]);
    }
    has_none_of("manatee-vfio-user", &[], &["tokio"]);
    has_none_of("manatee-control", &[], &["manatee-vfio-user"]);
}

#[test]
fn command_has_nothing_of_the_tests_but_the_suite() {
    let dependencies = dependencies_of("manatee-cli", &[]);
    for package in ["manatee", "manatee-check", "manatee-control"] {
        assert!(dependencies.contains(package), "{package}");
    }
    for package in ["manatee-testbed", "manatee-variants", "manatee-traffic"] {
        assert!(!dependencies.contains(package), "{package}");
    }
}
