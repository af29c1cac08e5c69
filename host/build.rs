//! Prepares what the library includes: where the contract's types lie in linear memory, and
//! the embedded component's machine code, if there is some.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "build/layout.rs"]
mod layout;

/// Names what `manatee precompile` made of the component. Without, the component is
/// compiled when it is first used.
const CODE: &str = "MANATEE_DEVICE_CODE";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    embed_code(&out.join("device.cwasm"))?;
    let own = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    // A packed crate has the contract inside, and the repository beside it.
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
        // The first of two builds makes it.
        if file.exists() {
            return fs::copy(file, to).map(|_| ());
        }
    }
    fs::write(to, [])
}
