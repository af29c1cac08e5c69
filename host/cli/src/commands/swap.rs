//! `manatee swap` and `manatee rollback`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use manatee::component;
use manatee_control::method::Swapped;
use manatee_control::{Client, Stage, SwapRequest};

/// Replace the component of a running device
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Replace the component of a running device by another version.\n\n\
        The new component is compiled and checked while the old one runs, by processes of \
        their own with limits of memory and time. Then the device's \
        state moves: the guest sees a pause of less than a millisecond, no reset, and loses no \
        packet. If anything fails before, the old component continues, and the reason is shown.",
    after_help = "Examples:\n  \
        manatee swap --control /tmp/nic.control new.wasm\n  \
        manatee swap --control /tmp/nic.control --probation 60 new.wasm"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The new component
    #[arg(value_name = "NEW.wasm")]
    file: PathBuf,

    /// Do not run the conformance suite on it first
    #[arg(long)]
    no_check: bool,

    /// If the new component fails within this time, return to the old one;
    /// 0 to continue with the new one in any case
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    probation: Duration,

    #[command(flatten)]
    output: Output,
}

/// Return to the component that ran before the last swap
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Return to the component that ran before the last swap. A second rollback undoes \
    the first."
)]
pub struct RollbackArguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// The old name of `--json`
    #[arg(long, value_name = "FORMAT", hide = true, conflicts_with = "json")]
    format: Option<Format>,
}

impl Output {
    fn is_json(&self) -> bool {
        self.json || matches!(self.format, Some(Format::Json))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    let day = 86_400.0;
    if (0.0..=day).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("give 0 to {day} seconds"))
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // The server can't open paths: it gets the open file, and a name for messages.
    let file = component::open(&arguments.file)?;
    let name = std::path::absolute(&arguments.file).context("finding the component")?;
    let swap = SwapRequest {
        name: name.display().to_string(),
        check: !arguments.no_check,
        probation_ms: arguments.probation.as_millis() as u64,
        progress: true,
    };
    let tell = |stage| {
        eprintln!(
            "{}",
            match stage {
                Stage::Compiling => "compiling the new component",
                Stage::Checking => "running the conformance suite on it; the guest is not affected",
                Stage::Swapping => "swapping",
            }
        );
    };
    let swapped = Client::connect(&arguments.control)?.swap(swap, &file, tell)?;
    print(&arguments.output, &swapped)
}

pub fn roll_back(arguments: &RollbackArguments) -> anyhow::Result<()> {
    let swapped = Client::connect(&arguments.control)?.rollback()?;
    print(&arguments.output, &swapped)
}

fn print(output: &Output, swapped: &Swapped) -> anyhow::Result<()> {
    let text = if output.is_json() {
        format!("{}\n", serde_json::to_string(swapped)?)
    } else {
        format!(
            "version {} (sha256 {}) runs now instead of {}; the guest paused for {} us, while {} bytes of state moved\n",
            swapped.to, swapped.to_sha256, swapped.from, swapped.pause_us, swapped.state_bytes,
        )
    };
    super::output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probation_is_a_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["-1", "1e9", "NaN", "soon", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
