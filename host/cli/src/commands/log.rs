//! `manatee log`.

use std::path::PathBuf;

use manatee_control::Client;

/// Show or change what a running `manatee serve` logs
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show or change what a running `manatee serve` logs, until it ends or the next \
        change.",
    after_help = "Example: everything from the vfio-user server, warnings from the rest\n\n  \
        manatee log --control /tmp/nic.control warn,manatee_vfio_user=trace"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// What to log from now on: a level, or parts with a level each, as for --log-level; without it
    /// the current one is only shown
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
