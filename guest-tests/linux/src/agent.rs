//! Commands for the guest, over its second serial port.
//!
//! `guest/agent` is the other end, and documents the lines.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::deadline::Deadline;

/// How much longer than the guest the harness waits: the guest itself ends a command
/// that takes too long, and reports it.
const GRACE: Duration = Duration::from_secs(10);

/// The exit status of a command that timed out in the guest: busybox's `timeout` after
/// SIGTERM.
const TIMED_OUT: i32 = 143;

/// The harness's end of the line.
pub struct Agent {
    stream: UnixStream,
    pending: Vec<u8>,
    sequence: u32,
    boot: Option<Boot>,
}

/// One boot of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's random name for this boot.
    pub id: String,
    /// The kernel's version.
    pub kernel: String,
}

/// The result of a command.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// Its output, on stdout and stderr.
    pub text: String,
}

/// A message from the guest.
#[derive(Debug)]
enum Message {
    Boot(Boot),
    Done { sequence: u32, output: Output },
}

impl Agent {
    /// Creates an agent over `stream`, QEMU's end of the serial port.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            sequence: 0,
            boot: None,
        }
    }

    /// Waits until the guest has booted, other than the boot known so far.
    pub fn wait_for_boot(&mut self, within: Duration) -> Result<Boot> {
        let deadline = Deadline::after(within);
        loop {
            let message = self.receive(deadline).context("the guest did not boot")?;
            if let Message::Boot(boot) = message
                && self.boot.as_ref() != Some(&boot)
            {
                self.boot = Some(boot.clone());
                return Ok(boot);
            }
        }
    }

    /// Runs a shell command in the guest and waits for its end.
    pub fn run(&mut self, command: &str, within: Duration) -> Result<Output> {
        self.run_to_end(command, within)
            .with_context(|| format!("in the guest: {command}"))
    }

    /// Starts a command that the guest will not answer, such as `reboot`.
    pub fn send(&mut self, command: &str, within: Duration) -> Result<()> {
        self.sequence += 1;
        let line = format!(
            "{} {} {}\n",
            self.sequence,
            within.as_secs().max(1),
            BASE64.encode(command)
        );
        self.stream.set_write_timeout(Some(GRACE))?;
        self.stream
            .write_all(line.as_bytes())
            .context("cannot send a command to the guest")
    }

    fn run_to_end(&mut self, command: &str, within: Duration) -> Result<Output> {
        self.send(command, within)?;
        let deadline = Deadline::after(within + GRACE);
        loop {
            match self.receive(deadline)? {
                Message::Done { sequence, output } if sequence == self.sequence => {
                    if output.status == TIMED_OUT {
                        bail!(
                            "took longer than {within:?}, and had printed: {}",
                            output.text
                        );
                    }
                    return Ok(output);
                }
                Message::Done { .. } => {}
                Message::Boot(boot) => {
                    self.boot = Some(boot);
                    bail!("the guest has crashed and booted again");
                }
            }
        }
    }

    /// Receives the next message. Other lines are skipped, as a guest that crashes may
    /// leave half a line.
    fn receive(&mut self, deadline: Deadline) -> Result<Message> {
        loop {
            if let Some(message) = self.receive_line(deadline)?.as_deref().and_then(parse) {
                return Ok(message);
            }
        }
    }

    fn receive_line(&mut self, deadline: Deadline) -> Result<Option<String>> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8(line).ok());
            }
            let left = deadline
                .remaining()
                .context("the guest did not answer in time")?;
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("QEMU has closed the guest's serial port"),
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(error) if is_transient(error.kind()) => {}
                Err(error) => {
                    return Err(error).context("cannot read from the guest's serial port");
                }
            }
        }
    }
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn parse(line: &str) -> Option<Message> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "BOOT" => Some(Message::Boot(Boot {
            id: words.next()?.to_owned(),
            kernel: words.next()?.to_owned(),
        })),
        "DONE" => Some(Message::Done {
            sequence: words.next()?.parse().ok()?,
            output: Output {
                status: words.next()?.parse().ok()?,
                text: decode(words.next().unwrap_or_default())?,
            },
        }),
        _ => None,
    }
}

fn decode(text: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&BASE64.decode(text).ok()?).into_owned())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Returns an agent whose guest answers each command with the next of `answers`.
    fn agent(answers: &'static [&'static str]) -> Agent {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut command = [0; 256];
            for answer in answers {
                let _ = theirs.read(&mut command);
                let _ = theirs.write_all(answer.as_bytes());
            }
        });
        Agent::new(ours)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn answers_are_matched_to_commands_and_noise_is_skipped() {
        let mut agent = agent(&["\0noise\nDONE 7 0 eA==\nDONE 1 2 b3V0Cg==\n", "DONE 2 0\n"]);
        let first = agent.run("false", SECOND).unwrap();
        assert_eq!((first.status, first.text.as_str()), (2, "out\n"));
        assert_eq!(agent.run("true", SECOND).unwrap().text, "");
    }

    #[test]
    fn a_crash_ends_the_command_that_ran() {
        let mut agent = agent(&["DONE 1\nBOOT b 6.1\n"]);
        let error = agent.run("true", SECOND).unwrap_err();
        assert!(format!("{error:#}").contains("booted again"), "{error:#}");
    }

    #[test]
    fn the_same_boot_twice_is_no_reboot() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut agent = Agent::new(ours);
        theirs
            .write_all(b"BOOT a 6.1\nBOOT a 6.1\nBOOT b 6.1\n")
            .unwrap();
        assert_eq!(agent.wait_for_boot(SECOND).unwrap().id, "a");
        assert_eq!(agent.wait_for_boot(SECOND).unwrap().id, "b");
        assert!(agent.wait_for_boot(Duration::from_millis(1)).is_err());
    }

    #[test]
    fn an_overlong_command_and_a_vanished_guest_are_errors() {
        assert!(agent(&["DONE 1 143\n"]).run("yes", SECOND).is_err());
        assert!(agent(&[]).run("true", SECOND).is_err());
    }
}
