//! `manatee precompile`.

use std::path::PathBuf;

use anyhow::Context;
use manatee::component::Component;

/// Compile the built-in component, for the next build to embed
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Compile the built-in component for this machine. A build for which \
    MANATEE_DEVICE_CODE names the result embeds it, and starts without compiling anything. \
    `just build` does both."
)]
pub struct Arguments {
    /// Where the result goes
    #[arg(value_name = "FILE")]
    output: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let compiled = Component::precompile()?;
    // A build embeds again what has changed only.
    if std::fs::read(&arguments.output).is_ok_and(|found| found == compiled) {
        return Ok(());
    }
    let output = arguments.output.display();
    std::fs::write(&arguments.output, compiled).with_context(|| format!("writing {output}"))
}
