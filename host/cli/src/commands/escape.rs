//! `manatee escape`, in test builds only.

use std::path::PathBuf;

use manatee_control::{Client, ClientError};

use crate::jail::escape::{Stopped, WAYS, find};

/// Make a process that serves try to escape from its jail
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Arguments {
    /// The control socket of the process
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    control: Option<PathBuf>,

    /// List the attempts, one a line: name, what stops it, what it would give access to
    #[arg(long)]
    list: bool,

    /// The attempt to make
    #[arg(value_name = "WAY", required_unless_present = "list")]
    way: Option<String>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (Some(control), Some(name)) = (&arguments.control, &arguments.way) else {
        let line = |way: &crate::jail::escape::Way| {
            format!("{}\t{}\t{}\n", way.name, way.expected(), way.aim)
        };
        return super::output::print(&WAYS.iter().map(line).collect::<String>());
    };
    let ends = find(name).is_some_and(|way| way.stopped == Stopped::Killed);
    match Client::connect(control)?.escape(name.clone()) {
        // The process has ended; its parent knows the cause.
        Err(ClientError::Broken(..)) if ends => super::output::print("the process ended\n"),
        answer => super::output::print(&format!("{}\n", answer?.as_str().unwrap_or_default())),
    }
}
