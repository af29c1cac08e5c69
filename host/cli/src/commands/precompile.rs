//! `manatee precompile`.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use manatee::component::{Component, Processor};

/// Compile the built-in component, for the next build to embed
#[derive(Debug, clap::Args)]
#[command(long_about = "Compile the built-in component. A build for which \
    MANATEE_DEVICE_CODE names the result embeds it, and starts without compiling anything. \
    `just build` does both.")]
pub struct Arguments {
    /// The file to write
    #[arg(value_name = "FILE")]
    output: PathBuf,

    /// The target processors; others compile the component at the start. Of several levels, the
    /// first that a machine has is used there
    #[arg(
        long,
        value_enum,
        default_value = "own",
        value_delimiter = ',',
        value_name = "LEVEL,..."
    )]
    processor: Vec<Level>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    /// This machine's
    Own,
    /// Level 2 of the x86-64 psABI
    #[value(name = "x86-64-v2")]
    V2,
    /// Level 3, with AVX2
    #[value(name = "x86-64-v3")]
    V3,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut compiled = Vec::new();
    for level in &arguments.processor {
        compiled.extend(Component::precompile_for(match level {
            Level::Own => Processor::Own,
            Level::V2 => Processor::X86_64V2,
            Level::V3 => Processor::X86_64V3,
        })?);
    }
    // An unchanged file is not rewritten, so that cargo does not rebuild.
    if std::fs::read(&arguments.output).is_ok_and(|found| found == compiled) {
        return Ok(());
    }
    let output = arguments.output.display();
    std::fs::write(&arguments.output, compiled).with_context(|| format!("writing {output}"))
}
