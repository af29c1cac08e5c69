//! Builds the device's component, or takes the one that `MANATEE_COMPONENT=FILE.wasm` names.
//! A packed crate has the component and its digest next to its manifest, and needs no
//! compiler for wasm.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use manatee_wasm_build::{Crate, DEVICE};
use sha2::{Digest, Sha256};

const OUTPUT: &str = "device.wasm";
const DIGEST: &str = "device.wasm.sha256";

fn main() -> Result<()> {
    println!("cargo::rerun-if-env-changed=MANATEE_COMPONENT");
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(file) = env::var_os("MANATEE_COMPONENT") {
        let file = Path::new(&file);
        println!("cargo::rerun-if-changed={}", file.display());
        return copy(file).with_context(|| format!("copying MANATEE_COMPONENT={}", file.display()));
    }
    let packed = folder("CARGO_MANIFEST_DIR")?.join(OUTPUT);
    if packed.exists() {
        check_digest(&packed)?;
        return copy(&packed).with_context(|| format!("copying {}", packed.display()));
    }
    let device = Crate {
        package: "manatee-device",
        features: &["component"],
        build: None,
        inputs: DEVICE,
    };
    device.build(OUTPUT)
}

fn folder(variable: &str) -> Result<PathBuf> {
    let value = env::var_os(variable);
    let value = value.with_context(|| format!("cargo did not set {variable}"))?;
    Ok(PathBuf::from(value))
}

fn copy(file: &Path) -> Result<()> {
    fs::copy(file, folder("OUT_DIR")?.join(OUTPUT))?;
    Ok(())
}

/// Checks the component against the SHA-256 digest next to it, in hexadecimal.
fn check_digest(component: &Path) -> Result<()> {
    let told = component.with_file_name(DIGEST);
    let told = fs::read_to_string(&told).with_context(|| format!("reading {}", told.display()))?;
    let mut digest = String::new();
    for byte in Sha256::digest(fs::read(component)?) {
        write!(digest, "{byte:02x}")?;
    }
    ensure!(
        told.trim() == digest,
        "{} has the digest {digest}, and {DIGEST} says {}",
        component.display(),
        told.trim()
    );
    Ok(())
}
