//! Embeds what `manatee precompile` made of the component, if `MANATEE_DEVICE_CODE` names
//! such a file. Without, the component is compiled when it is first used.

use std::path::PathBuf;
use std::{env, fs, io};

const VARIABLE: &str = "MANATEE_DEVICE_CODE";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("device.cwasm");
    let file = env::var_os(VARIABLE).map(PathBuf::from);
    if let Some(file) = file {
        println!("cargo::rerun-if-changed={}", file.display());
        // The first of two builds makes it.
        if file.exists() {
            return fs::copy(file, out).map(|_| ());
        }
    }
    fs::write(out, [])
}
