//! Builds the device's component; with `MANATEE_COMPONENT=FILE.wasm` takes
//! that one instead.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result};
use manatee_wasm_build::{Crate, DEVICE};

const OUTPUT: &str = "device.wasm";

fn main() -> Result<()> {
    println!("cargo::rerun-if-env-changed=MANATEE_COMPONENT");
    println!("cargo::rerun-if-changed=build.rs");
    let Some(file) = env::var_os("MANATEE_COMPONENT") else {
        let device = Crate {
            package: "manatee-device",
            features: &["component"],
            build: None,
            inputs: DEVICE,
        };
        return device.build(OUTPUT);
    };
    let file = Path::new(&file);
    println!("cargo::rerun-if-changed={}", file.display());
    let out = env::var_os("OUT_DIR").context("cargo did not set OUT_DIR")?;
    fs::copy(file, Path::new(&out).join(OUTPUT))
        .with_context(|| format!("copying MANATEE_COMPONENT={}", file.display()))?;
    Ok(())
}
