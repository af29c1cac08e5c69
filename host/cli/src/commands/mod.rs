//! The command line.

mod candidates;
mod capabilities;
mod capture;
mod check;
mod describe;
#[cfg(test)]
mod documents;
mod errors;
#[cfg(feature = "escape")]
mod escape;
mod events;
mod exit;
mod hidden;
mod inherited;
mod inspect;
mod keep;
mod link;
mod links;
mod log;
mod logging;
mod mac;
mod metadata;
mod metrics;
mod notify;
mod operator;
mod output;
mod pages;
mod port;
mod precompile;
mod rate;
mod rates;
mod report;
mod serve;
mod stderr;
mod swap;
mod told;
mod top;
mod version;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::jail::{broker, child};

const EXAMPLE: &str = "\
Example: a network adapter for a QEMU guest, on the TAP interface tap0

  manatee serve --socket-path /tmp/nic.sock --port tap=tap0

  qemu-system-x86_64 -machine q35,memory-backend=mem \\
    -object memory-backend-memfd,id=mem,size=1G,share=on \\
    -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/nic.sock\"}}' ...

`manatee help COMMAND` explains a command.";

/// A virtual network adapter (Microsoft's MANA) as a sandboxed WebAssembly
/// component, for any virtual machine monitor that speaks vfio-user.
#[derive(Debug, Parser)]
#[command(name = "manatee", arg_required_else_help = true, after_help = EXAMPLE)]
struct Cli {
    /// Print this build's version, commit, wasmtime, contracts, and built-in component
    #[arg(short = 'V', long)]
    version: bool,

    /// Print that as JSON
    #[arg(long, requires = "version")]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Keep(keep::KeepArguments),
    Upgrade(keep::UpgradeArguments),
    Describe(describe::Arguments),
    Check(check::Arguments),
    Inspect(inspect::Arguments),
    Events(events::Arguments),
    Top(top::Arguments),
    Swap(swap::Arguments),
    Rollback(swap::RollbackArguments),
    Link(link::Arguments),
    Rate(rate::Arguments),
    Capture(capture::Arguments),
    Log(log::Arguments),
    Report(report::Arguments),
    Completions(pages::CompletionArguments),
    Man(pages::ManArguments),
    #[command(name = manatee_keeper::FACTS, hide = true)]
    Facts,
    #[command(hide = true)]
    Precompile(precompile::Arguments),
    #[command(name = child::COMMAND, hide = true)]
    Child(hidden::ChildArguments),
    #[command(name = broker::COMMAND, hide = true)]
    Broker,
    #[cfg(feature = "escape")]
    Escape(escape::Arguments),
}

/// Runs the command.
pub fn run() -> ExitCode {
    let Cli {
        version,
        json,
        command,
    } = Cli::parse_from(command_line());
    let Some(command) = command.filter(|_| !version) else {
        return match version::run(json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output::fail(&error),
        };
    };
    let result = match command {
        Command::Serve(arguments) => Ok(serve::run(&arguments)),
        Command::Keep(arguments) => keep::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Upgrade(arguments) => keep::upgrade(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Describe(arguments) => describe::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Check(arguments) => check::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Events(arguments) => events::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Top(arguments) => top::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Swap(arguments) => swap::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Link(arguments) => link::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Rate(arguments) => rate::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Capture(arguments) => capture::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Log(arguments) => log::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Report(arguments) => report::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Completions(arguments) => {
            pages::complete(Cli::command(), &arguments).map(|()| ExitCode::SUCCESS)
        }
        Command::Man(arguments) => {
            pages::write(Cli::command(), &arguments).map(|()| ExitCode::SUCCESS)
        }
        Command::Precompile(arguments) => precompile::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Rollback(arguments) => swap::roll_back(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Child(arguments) => hidden::run_child(&arguments),
        Command::Facts => version::print_facts().map(|()| ExitCode::SUCCESS),
        Command::Broker => Ok(hidden::run_broker()),
        #[cfg(feature = "escape")]
        Command::Escape(arguments) => escape::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    }
}

/// Returns the command line, with `serve` inserted if the program has a backend's name.
fn command_line() -> Vec<OsString> {
    let mut words: Vec<_> = std::env::args_os().collect();
    let name = words.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(capabilities::BACKEND)) {
        words.insert(1, "serve".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
