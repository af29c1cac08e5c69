//! A child process whose output is recorded, and which never outlives the harness.

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deadline::Deadline;
use crate::transcript::Transcript;

/// A running program; dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Transcript>,
}

impl Process {
    /// Starts `command`, with nothing to read and both of its outputs recorded.
    /// `name` is what errors call it.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let (reader, writer) = io::pipe().context("no pipe for a process's output")?;
        command
            .stdin(Stdio::null())
            .stdout(
                writer
                    .try_clone()
                    .context("no pipe for a process's output")?,
            )
            .stderr(writer);
        let child = command.spawn().with_context(|| {
            format!("cannot start {name} ({})", command.get_program().display())
        })?;
        // The command holds the pipe's writing ends; the output is to end with the child.
        drop(command);
        let output = Arc::new(Transcript::default());
        let recorder = Arc::clone(&output);
        thread::spawn(move || recorder.record(reader));
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    /// Returns what it has printed so far.
    pub fn output(&self) -> &Transcript {
        &self.output
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended, saying how.
    pub fn check_running(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .context("cannot ask for a process's state")?
        {
            None => Ok(()),
            Some(status) => bail!("{} has ended early: {status}", self.name),
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(within)
    }

    /// Waits until it and every process that it has started have ended.
    pub fn wait_end(&mut self, within: Duration) -> Result<ExitStatus> {
        if !self.output.wait_closed(Deadline::after(within)) {
            bail!("{} still runs after {within:?}", self.name);
        }
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id out of range")?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end and returns what it printed; fails with its output if it
/// does.
pub fn output_of(mut command: Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}): {}{printed}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminated_process_is_waited_for_and_its_output_kept() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap 'echo bye; exit 3' TERM; echo up; while :; do :; done",
        ]);
        let mut process = Process::spawn("loop", command).unwrap();
        while process.output().tail(1) != "up" {
            process.check_running().unwrap();
            thread::yield_now();
        }
        let status = process.terminate(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.output().tail(1), "bye");
        assert!(process.check_running().is_err());
    }

    #[test]
    fn a_failing_command_is_reported_in_its_own_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 1"]);
        assert!(output_of(command).unwrap_err().to_string().contains("why"));
    }
}
