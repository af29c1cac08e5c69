//! Says what the build is made of.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const UNKNOWN: &str = "unknown";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=MANATEE_COMMIT={}", commit());
    println!("cargo::rustc-env=MANATEE_WASMTIME={}", wasmtime());
}

/// The commit that this is built from: what MANATEE_COMMIT says, or git. Builds that are not
/// optimised do not ask git, since each commit would build them again.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=MANATEE_COMMIT");
    if let Ok(commit) = env::var("MANATEE_COMMIT") {
        return commit;
    }
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return UNKNOWN.to_owned();
    }
    // It grows with each commit, also in a worktree.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| UNKNOWN.to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The version of wasmtime, as the workspace's lock file has it.
fn wasmtime() -> String {
    let workspace = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let lock = Path::new(&workspace).join("../../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = fs::read_to_string(lock).unwrap_or_default();
    let mut lines = text.lines();
    let found = lines.any(|line| line == "name = \"wasmtime\"");
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("version = \""));
    let version = version.and_then(|version| version.strip_suffix('"'));
    version.filter(|_| found).unwrap_or(UNKNOWN).to_owned()
}
