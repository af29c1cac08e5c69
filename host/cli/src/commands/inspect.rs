//! `manatee inspect`.

use std::path::PathBuf;

use manatee_control::Client;

/// Show the state of a running device as JSON
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show the state of a running device as JSON: PCI registers, queues with their \
        positions, ports with their counters, limits and faults.",
    after_help = "Example: the counters of the first port\n\n  \
        manatee inspect --control /tmp/nic.control 'ports/0/*'"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The part to show: names joined by `/`, with `*` for any one of them and `**`
    /// for any number (quote it for the shell). By default everything
    #[arg(value_name = "PATTERN")]
    pattern: Option<String>,

    /// Print JSON (always on)
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let tree = Client::connect(&arguments.control)?.inspect(arguments.pattern.clone())?;
    super::output::print(&format!("{tree:#}\n"))
}
