//! `manatee log`.

use std::path::PathBuf;

use manatee_control::Client;

/// Show or change what a running `manatee serve` logs
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show or change what a running `manatee serve` logs, until it ends or is told otherwise.",
    after_help = "Example: all of the vfio-user server's, warnings of all else\n\n  \
        manatee log --control /tmp/nic.control warn,manatee_vfio_user=trace"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// What to log from now on: a level, or parts with a level each, as for --log-level; only
    /// shown if nothing is given
    #[arg(value_name = "LEVEL")]
    level: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let level = Client::connect(&arguments.control)?.log(arguments.level.clone())?;
    if arguments.json {
        return super::output::print(&format!("{}\n", serde_json::to_string(&level)?));
    }
    super::output::print(&format!("{}\n", level.level))
}
