//! The program `manatee-keeper`, which supervises `manatee serve`. `manatee keep` starts it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use manatee_keeper::{Options, keep, launch};

const USAGE: &str = "\
Usage: manatee-keeper [--control PATH] [--tries N] -- PROGRAM ARGUMENT...

Runs a `manatee serve`, keeps what it hands over, and starts the next. `manatee keep` starts it.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.next_if(|word| word == "launch").is_some() {
        match launch(words)? {}
    }
    keep(options(words)?)
}

fn options(mut words: impl Iterator<Item = OsString>) -> Result<Options> {
    let (mut control, mut tries) = (None, 5);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{} needs a value", word.display()))
        };
        match word.to_str() {
            Some("--control") => control = Some(PathBuf::from(value()?)),
            Some("--tries") => {
                let given = value()?;
                let number = given.to_str().and_then(|text| text.parse().ok());
                tries = number.with_context(|| format!("--tries {}", given.display()))?;
            }
            Some("--") => {
                let program = words.next().context("which program is to be kept?")?.into();
                return Ok(Options {
                    program,
                    arguments: words.collect(),
                    control,
                    tries,
                });
            }
            _ => bail!("unknown argument {}\n\n{USAGE}", word.display()),
        }
    }
    bail!("{USAGE}")
}
