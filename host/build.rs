//! Builds the device's component, which the host embeds.
//!
//! With `MANATEE_COMPONENT=FILE.wasm` that component is embedded instead.
//! Otherwise the device's crate is compiled for wasm32-unknown-unknown, by
//! whichever toolchain has that target: the one that compiles this crate, or
//! Debian's (`rustc-web`, `cargo-web`, `rust-web-src`), which builds the core
//! library from source.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core";

fn main() -> Result<()> {
    let host = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let workspace = host.parent().context("the host's folder has no parent")?;
    let output = PathBuf::from(var("OUT_DIR")?).join("device.wasm");
    println!("cargo::rerun-if-env-changed=MANATEE_COMPONENT");
    for input in [
        "component/src",
        "component/Cargo.toml",
        "wit",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(file) = env::var_os("MANATEE_COMPONENT") {
        let file = Path::new(&file);
        println!("cargo::rerun-if-changed={}", file.display());
        fs::copy(file, &output)
            .with_context(|| format!("copying MANATEE_COMPONENT={}", file.display()))?;
        return Ok(());
    }
    let module = compile(workspace, &target_dir()?)?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&fs::read(&module).with_context(|| format!("reading {}", module.display()))?)?
        .encode()
        .context("making a component of the device's module")?;
    fs::write(&output, component).with_context(|| format!("writing {}", output.display()))
}

fn var(name: &str) -> Result<OsString> {
    env::var_os(name).with_context(|| format!("cargo did not set {name}"))
}

/// A folder for the wasm build, shared by every profile of the host: below
/// the target folder, which is where `OUT_DIR` lies four levels down.
fn target_dir() -> Result<PathBuf> {
    let out = PathBuf::from(var("OUT_DIR")?);
    let target = out
        .ancestors()
        .nth(4)
        .context("OUT_DIR is not below a target folder")?;
    Ok(target.join("component"))
}

fn compile(workspace: &Path, target_dir: &Path) -> Result<PathBuf> {
    let sysroot = sysroot()?;
    let mut cargo = if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        own_toolchain()?
    } else if [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_SOURCE]
        .iter()
        .all(|p| Path::new(p).exists())
    {
        debian_toolchain(&sysroot)
    } else {
        bail!(
            "no Rust toolchain here can compile the device to wasm: run `just setup`, \
             or `rustup target add {TARGET}`"
        );
    };
    cargo
        .current_dir(workspace)
        .env("CARGO_TARGET_DIR", target_dir)
        .args([
            "rustc",
            "--locked",
            "--package",
            "manatee-device",
            "--profile",
            "component",
        ])
        .args(["--crate-type", "cdylib", "--target", TARGET]);
    let output = cargo
        .output()
        .with_context(|| format!("running {cargo:?}"))?;
    ensure!(
        output.status.success(),
        "compiling the device to wasm failed ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target_dir
        .join(TARGET)
        .join("component/manatee_device.wasm"))
}

fn sysroot() -> Result<PathBuf> {
    let output = Command::new(var("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .context("asking rustc for its sysroot")?;
    ensure!(output.status.success(), "rustc does not tell its sysroot");
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// A cargo that is not told what the cargo that runs this script was told.
fn clean(cargo: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = matches!(&*text, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        let told = [
            "CARGO",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTDOC",
            "CLIPPY",
            "TARGET",
            "PROFILE",
        ];
        if !keep && told.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

fn own_toolchain() -> Result<Command> {
    let mut command = clean(var("CARGO")?);
    command.env("RUSTC", var("RUSTC")?);
    Ok(command)
}

fn debian_toolchain(sysroot: &Path) -> Command {
    let mut command = clean(DEBIAN_CARGO);
    command
        .env("RUSTC", DEBIAN_RUSTC)
        // Building the core library is an unstable option of cargo.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_UNSTABLE_BUILD_STD", "core,alloc");
    let linker = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if linker.exists() {
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    command
}
