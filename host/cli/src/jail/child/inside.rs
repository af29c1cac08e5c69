//! The child's own process.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use manatee::component::{Compiled, Component, MAX_FILE};
use rustix::process::{Resource, Signal, set_parent_process_death_signal};

use super::job::{Job, Task};
use crate::jail::{Jail, Role, limits, resolve, sealed};

/// The exit status of a child that has no result and printed the reason.
pub const REFUSED: i32 = 1;
/// The exit status of a child that could not be confined.
const UNCONFINED: u8 = 2;
/// The most descriptors that a child may have.
const DESCRIPTORS: u64 = 64;
/// The longest reason for a missed requirement, in bytes.
const MAX_REASON: usize = 16 << 10;

/// Accepts the answer of a child as compiled code.
pub(super) fn trust(bytes: Vec<u8>) -> Compiled {
    // SAFETY: a child of this program wrote them, and nobody else could: it was handed
    // the file, which was sealed when the child had ended. The compiler is trusted like
    // the rest of this program: docs/security.md says so.
    unsafe { Compiled::from_bytes(bytes) }
}

/// Confines this process and does a job.
pub fn run(job: &Job, sandbox: bool) -> ExitCode {
    let output =
        confine(job, sandbox).and_then(|()| Ok(io::stdout().as_fd().try_clone_to_owned()?));
    match output.map(File::from) {
        Ok(mut output) => match answer(job) {
            Ok(bytes) => finish(&mut output, &bytes, ExitCode::SUCCESS),
            Err(error) => {
                let text = format!("{error:#}");
                finish(&mut output, text.as_bytes(), ExitCode::from(REFUSED as u8))
            }
        },
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(UNCONFINED)
        }
    }
}

fn finish(output: &mut File, bytes: &[u8], code: ExitCode) -> ExitCode {
    match output.write_all(bytes) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("answering: {error}");
            ExitCode::from(UNCONFINED)
        }
    }
}

fn confine(job: &Job, sandbox: bool) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let bounds = job.bounds();
    if job.background {
        limits::run_when_idle()?;
    }
    limits::lower(Resource::Data, bounds.memory)?;
    limits::lower(Resource::Fsize, bounds.output)?;
    limits::lower(Resource::Nofile, DESCRIPTORS)?;
    limits::lower(Resource::Core, 0)?;
    limits::processor(bounds.processor)?;
    if sandbox {
        let role = match job.task {
            Task::Compile => Role::Compile,
            Task::Check(_) => Role::Check,
        };
        let mut jail = Jail::new(role);
        jail.ids = resolve(None)?;
        jail.enter()?;
    }
    Ok(())
}

fn answer(job: &Job) -> anyhow::Result<Vec<u8>> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let wasm = sealed::read(&input, MAX_FILE)?;
    match &job.task {
        Task::Compile => {
            let compiled = Component::compile(&wasm, &job.name)?;
            Ok(compiled.as_bytes().to_vec())
        }
        Task::Check(suite) => {
            let requirements = manatee_check::select(&suite.names)?;
            let mut missed = Vec::with_capacity(requirements.len());
            let each = |verdict: &manatee_check::Verdict| {
                missed.push(
                    verdict
                        .missed
                        .as_deref()
                        .map(|reason| short(reason).to_owned()),
                );
            };
            manatee_check::check(&wasm, &job.name, &requirements, &suite.limits(), each)?;
            Ok(serde_json::to_vec(&missed)?)
        }
    }
}

/// Truncates a reason.
fn short(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}
