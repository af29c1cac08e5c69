//! `manatee completions` and `manatee man`: generated from the definition of the command line.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n\n  manatee completions bash > /usr/share/bash-completion/completions/manatee"
)]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Write the manual's pages to a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n\n  manatee man /usr/share/man/man1")]
pub struct ManArguments {
    /// The folder, which must exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints completions of a command line.
pub fn complete(mut command: Command, arguments: &CompletionArguments) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "manatee", &mut text);
    super::output::print(&String::from_utf8_lossy(&text))
}

/// Writes the pages of a command line.
pub fn write(command: Command, arguments: &ManArguments) -> anyhow::Result<()> {
    let folder = &arguments.folder;
    let written: io::Result<()> = clap_mangen::generate_to(command, folder);
    written.with_context(|| format!("writing pages to {}", folder.display()))
}
