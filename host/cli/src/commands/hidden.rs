//! Hidden commands with which `manatee` starts itself: see [`crate::jail`].

use std::process::ExitCode;

use anyhow::Context;

use crate::jail::{broker, child};

/// Arguments of a child, which does one job.
#[derive(Debug, clap::Args)]
pub struct ChildArguments {
    job: String,

    #[arg(long)]
    no_sandbox: bool,
}

/// Does the job of a child.
pub fn run_child(arguments: &ChildArguments) -> anyhow::Result<ExitCode> {
    let job = serde_json::from_str(&arguments.job).context("the job")?;
    Ok(child::run(&job, !arguments.no_sandbox))
}

/// Runs as a broker.
pub fn run_broker() -> ExitCode {
    broker::run()
}
