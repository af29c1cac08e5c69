//! The process under test: `manatee serve`.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::deadline::Deadline;
use crate::process::Process;
use crate::transcript::Transcript;

/// How long it may take to be ready: it compiles the component first.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to end when told to.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How often a wait for readiness checks that the process still runs.
const LIVENESS: Duration = Duration::from_millis(100);

/// A running `manatee serve`.
pub struct Serve {
    process: Process,
    socket: PathBuf,
    control: PathBuf,
    keeper: PathBuf,
}

/// The configuration of a `manatee serve`.
pub struct Start<'a> {
    /// The program `manatee`.
    pub manatee: &'a Path,
    /// The directory of its sockets.
    pub dir: &'a Path,
    /// The number that distinguishes its sockets from others there.
    pub number: usize,
    /// The component, if not the one that is built in.
    pub component: Option<&'a Path>,
    /// Whether `manatee keep` starts it.
    pub kept: bool,
    /// Its ports.
    pub ports: &'a [PortArgument<'a>],
}

/// One `--port` of it.
pub struct PortArgument<'a> {
    /// The TAP interface.
    pub tap: &'a str,
    /// The guest's address on it.
    pub mac: &'a str,
    /// How many queue pairs it has.
    pub queues: u16,
}

impl Serve {
    /// Starts it, and waits until it reports that it is ready.
    pub fn start(start: &Start<'_>) -> Result<Self> {
        let path = |name: &str| start.dir.join(format!("{name}-{}.sock", start.number));
        let (socket, control, notify_path) = (path("vfio-user"), path("control"), path("notify"));
        let notify = bind(&notify_path)?;
        let keeper = path("keeper");
        let mut command = Command::new(start.manatee);
        if start.kept {
            command.arg("keep").arg("--control").arg(&keeper);
            // A demonstration may kill it again and again.
            command.args(["--tries", "1000"]).arg("--");
        }
        command.arg("serve").arg("--socket").arg(&socket);
        command.arg("--control").arg(&control);
        if let Some(component) = start.component {
            command.arg("--component").arg(component);
        }
        for port in start.ports {
            let PortArgument { tap, mac, queues } = port;
            command
                .arg("--port")
                .arg(format!("tap={tap},mac={mac},queues={queues}"));
        }
        command.env("NOTIFY_SOCKET", &notify_path);
        let mut serve = Self {
            process: Process::spawn("manatee serve", command)?,
            socket,
            control,
            keeper,
        };
        if let Err(error) = serve.wait_ready(&notify) {
            bail!("{error:#}; it printed: {}", serve.log().tail(20));
        }
        Ok(serve)
    }

    /// Returns the socket for the VMM.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the socket for its operator.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Returns the socket of its keeper, if it has one.
    pub fn keeper(&self) -> &Path {
        &self.keeper
    }

    /// Returns what it has logged.
    pub fn log(&self) -> &Transcript {
        self.process.output()
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails if it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running()
    }

    /// Stops it with SIGTERM; it has to end by itself, with status 0 and its
    /// socket removed.
    pub fn stop(mut self) -> Result<()> {
        self.process.check_running()?;
        let status = self.process.terminate(STOP_WITHIN)?;
        if !status.success() {
            bail!(
                "manatee serve ended with {status} on SIGTERM; its log: {}",
                self.log().tail(20)
            );
        }
        if self.socket.exists() {
            bail!(
                "manatee serve has left its socket {} behind",
                self.socket.display()
            );
        }
        Ok(())
    }

    /// Waits until it has ended by itself, with all that it has started.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        self.process.wait_end(STOP_WITHIN)
    }

    /// Waits for a datagram with the line READY=1, by systemd's notification protocol.
    fn wait_ready(&mut self, notify: &UnixDatagram) -> Result<()> {
        let deadline = Deadline::after(READY_WITHIN);
        let mut message = [0; 4096];
        while let Some(left) = deadline.remaining() {
            notify.set_read_timeout(Some(left.min(LIVENESS)))?;
            match notify.recv(&mut message) {
                Ok(count) if is_ready(&message[..count]) => return self.check_socket(),
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    self.process.check_running()?;
                }
                Err(error) => {
                    return Err(error).context("cannot hear whether manatee serve is ready");
                }
            }
        }
        bail!("manatee serve did not say READY=1 within {READY_WITHIN:?}")
    }

    fn check_socket(&self) -> Result<()> {
        if !self.socket.exists() {
            bail!(
                "manatee serve says it is ready, but {} does not exist",
                self.socket.display()
            );
        }
        Ok(())
    }
}

fn bind(path: &Path) -> Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("cannot remove the last notification socket");
        }
        _ => {}
    }
    UnixDatagram::bind(path).with_context(|| format!("cannot bind {}", path.display()))
}

fn is_ready(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a stand-in for `manatee serve --socket PATH ...`.
    fn stand_in(dir: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("manatee");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn one_that_ends_at_once_is_reported_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let manatee = stand_in(dir.path(), "echo no such TAP: $7; exit 1");
        let port = PortArgument {
            tap: "t0",
            mac: "02:00:00:00:00:01",
            queues: 1,
        };
        let start = Start {
            manatee: &manatee,
            dir: dir.path(),
            number: 0,
            component: None,
            kept: false,
            ports: &[port],
        };
        let error = Serve::start(&start).err().unwrap().to_string();
        assert!(
            error.contains("no such TAP: tap=t0,mac=02:00:00:00:00:01,queues=1"),
            "{error}"
        );
    }

    #[test]
    fn readiness_is_a_line_of_its_own() {
        assert!(is_ready(b"STATUS=x\nREADY=1"));
        assert!(!is_ready(b"READY=10"));
    }
}
