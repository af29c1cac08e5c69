//! `manatee keep` and `manatee upgrade`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use manatee_keeper::protocol::{Answer, Request, Upgraded};

/// The keeper's program, in the same directory as this one.
const KEEPER: &str = "manatee-keeper";

const KEEP_EXAMPLES: &str = "\
Example:
  manatee keep --control /run/nic.keeper -- serve --socket-path /run/nic.sock --port tap=tap0
  manatee upgrade --control /run/nic.keeper

SIGTERM and SIGINT end the keeper and what it keeps. SIGTERM to the process that serves has
another one continue.";

/// Run `manatee serve`, and keep its guest's network while it is replaced or fails
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Run `manatee serve`, and keep its guest's network while it is replaced or \
    fails.\n\n\
    A small process of its own holds what the serving process leaves when it ends (the \
    VMM's connection, guest memory, interrupts, TAP queues, the device's state), as systemd's \
    descriptor store does, and starts the next one with it. A process that fails is restarted, \
    after a longer pause each time.",
    after_help = KEEP_EXAMPLES
)]
pub struct KeepArguments {
    /// The socket to create, by which `manatee upgrade` reaches the keeper. Only the user who runs
    /// this may use it
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// How often a failing process is restarted in a row
    #[arg(long, value_name = "N", default_value = "5",
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    tries: u32,

    /// The command to keep: `serve` and its arguments
    #[arg(last = true, required = true, value_name = "serve ARGUMENT")]
    command: Vec<OsString>,
}

/// Replace the process that serves, possibly by a new version, while the guest continues
#[derive(Debug, clap::Args)]
pub struct UpgradeArguments {
    /// The keeper's socket (`manatee keep --control`)
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The program to continue with; by default the one at the same path
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Becomes the keeper.
pub fn run(arguments: &KeepArguments) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("finding this program")?;
    let keeper = own.with_file_name(KEEPER);
    let first = arguments.command.first().and_then(|word| word.to_str());
    if first != Some("serve") {
        bail!("only `serve` can be kept: manatee keep -- serve ...");
    }
    let mut command = Command::new(&keeper);
    if let Some(control) = &arguments.control {
        command.arg("--control").arg(control);
    }
    command.args(["--tries", &arguments.tries.to_string(), "--"]);
    command.arg(own).args(&arguments.command);
    let error = command.exec();
    Err(error).with_context(|| {
        format!(
            "starting {}, which has to be in the same directory as this program",
            keeper.display()
        )
    })
}

/// Replaces the process that serves.
pub fn upgrade(arguments: &UpgradeArguments) -> anyhow::Result<()> {
    let program = arguments.program.as_ref().map(std::fs::canonicalize);
    let program = program.transpose().context("--program")?;
    let request = Request::Upgrade { program };
    match manatee_keeper::ask(&arguments.control, &request)? {
        Answer::Refused { reason } => bail!("{reason}"),
        Answer::Upgraded(upgraded) => super::output::print(&text(&upgraded, arguments.json)?),
    }
}

fn text(upgraded: &Upgraded, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(format!("{:#}\n", serde_json::to_value(upgraded)?));
    }
    let Upgraded {
        process,
        version,
        before,
        took_us,
        handed_over,
        rehearsed,
    } = upgraded;
    let took = Duration::from_micros(*took_us).as_millis();
    let end = match (handed_over, rehearsed) {
        (false, _) => "; the device could not be handed over, and was reset",
        (true, false) => "; it was started without a rehearsal",
        (true, true) => "",
    };
    Ok(format!(
        "process {process} of version {version} serves, {took} ms after that of version {before} \
         was told to end{end}\n"
    ))
}
