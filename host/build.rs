//! Prepares files that the library includes: the layout of the contract's types in linear memory,
//! and the embedded component's machine code, if it was precompiled.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "build/layout.rs"]
mod layout;

/// The variable with the path of the component's machine code, from `manatee precompile`. Without
/// it, the component is compiled at its first use.
const CODE: &str = "MANATEE_DEVICE_CODE";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    embed_code(&out.join("device.cwasm"))?;
    let own = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    // A packed crate contains the contract; in the repository it is next to the crate.
    let wit = ["wit", "../wit"].map(|folder| own.join(folder));
    let wit = wit.iter().find(|folder| folder.is_dir());
    let wit = wit.ok_or("there is no folder with the contract")?;
    println!("cargo::rerun-if-changed={}", wit.display());
    fs::write(out.join("layout.rs"), layout::generate(wit)?)?;
    Ok(())
}

fn embed_code(to: &Path) -> std::io::Result<()> {
    println!("cargo::rerun-if-env-changed={CODE}");
    if let Some(file) = env::var_os(CODE).map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", file.display());
        // In the first of two builds the file does not exist yet.
        if file.exists() {
            return fs::copy(file, to).map(|_| ());
        }
    }
    fs::write(to, [])
}
