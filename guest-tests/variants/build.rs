//! Builds the variants.

use anyhow::Result;
use manatee_wasm_build::{Crate, DEVICE};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let next = Crate {
        package: "manatee-device",
        features: &["component"],
        build: Some(concat!(env!("CARGO_PKG_VERSION"), "+next")),
        inputs: DEVICE,
    };
    next.build("next.wasm")?;
    let faulty = Crate {
        features: &["component", "faults"],
        build: Some(concat!(env!("CARGO_PKG_VERSION"), "+faults")),
        ..next
    };
    faulty.build("faulty.wasm")
}
