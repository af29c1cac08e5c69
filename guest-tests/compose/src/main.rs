//! Writes a program that tests a device: `compose-guest-tests OUTPUT [DEVICE]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).map(PathBuf::from).collect();
    let result = match &arguments[..] {
        [output] => write(output, None),
        [output, device] => write(output, Some(device)),
        _ => {
            eprintln!("usage: compose-guest-tests OUTPUT.wasm [DEVICE.wasm]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the program. By default the device is the component that the host embeds.
fn write(output: &PathBuf, device: Option<&PathBuf>) -> Result<()> {
    let program = match device {
        None => manatee_compose::compose(manatee_component::BYTES)?,
        Some(file) => {
            let name = file.display();
            let bytes = fs::read(file).with_context(|| format!("reading {name}"))?;
            manatee_compose::compose(&bytes).with_context(|| format!("composing {name}"))?
        }
    };
    fs::write(output, program).with_context(|| format!("writing {}", output.display()))
}
