//! A `manatee serve` whose processes are inspected from outside.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use manatee_control::method::Swapped;
use manatee_control::{Client, SwapRequest};
use rustix::io::retry_on_intr;
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness;

/// The longest that any step may take, in a debug build on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A user without privileges.
pub const ORDINARY: u32 = 12_345;

/// A running `manatee serve` with a loopback port.
pub struct Served {
    child: Child,
    log: BufReader<ChildStderr>,
    dir: TempDir,
}

impl Served {
    /// Starts it as the user that runs this test, with additional options.
    pub fn start(options: &[&str]) -> Self {
        Self::start_as(None, options)
    }

    /// Starts it as another user, if this one is root.
    pub fn start_as(user: Option<u32>, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), user, user).unwrap();
        let notify = dir.path().join("notify");
        let readiness = UnixDatagram::bind(&notify).unwrap();
        chown(&notify, user, user).unwrap();
        readiness.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = harness::serve(&dir.path().join("vfio.sock"));
        command
            .arg("--control")
            .arg(dir.path().join("control.sock"))
            .args(options)
            .env("NOTIFY_SOCKET", &notify)
            .stderr(Stdio::piped());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut served = Self::spawn(command, dir);
        let mut message = [0; 64];
        let heard =
            retry_on_intr(|| rustix::net::recv(&readiness, &mut message[..], RecvFlags::empty()));
        if let Err(error) = heard {
            served.child.kill().unwrap();
            panic!("not ready: {error}: {}", served.rest_of_log());
        }
        served
    }

    /// Starts it, and returns when it has its sockets and is confined, before it loads the
    /// component.
    pub fn start_confined() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = harness::serve(&dir.path().join("vfio.sock"));
        let control = dir.path().join("control.sock");
        command.arg("--control").arg(control).stderr(Stdio::piped());
        let mut served = Self::spawn(command, dir);
        served.wait_for_line("confined");
        served
    }

    fn spawn(mut command: Command, dir: TempDir) -> Self {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, dir }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("vfio.sock")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// Returns a folder for the test's files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the part `process` of `manatee inspect`.
    pub fn inspect(&self) -> Value {
        let mut client = Client::connect(&self.control()).unwrap();
        client.inspect(Some("process/**".into())).unwrap()["process"].clone()
    }

    /// Returns the process id of its broker.
    pub fn broker(&self) -> u32 {
        self.inspect()["broker"]["id"].as_u64().unwrap() as u32
    }

    /// Swaps a component in without the conformance suite.
    pub fn swap(&self, name: &str, component: &File) -> Result<Swapped, String> {
        let swap = SwapRequest {
            name: name.to_owned(),
            check: false,
            probation_ms: 0,
            progress: false,
        };
        let mut client = Client::connect(&self.control()).unwrap();
        client
            .swap(swap, component, |_| ())
            .map_err(|error| error.to_string())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for a log line that contains `words`.
    pub fn wait_for_line(&mut self, words: &str) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            if line.contains(words) {
                return line;
            }
            line.clear();
        }
        panic!("the log ended before a line with `{words}`");
    }

    /// Discards the log from now on: for a test that does not read it, a full pipe would drop
    /// lines.
    pub fn discard_log(&self) {
        let log = self.log.get_ref().as_fd().try_clone_to_owned().unwrap();
        thread::spawn(move || io::copy(&mut File::from(log), &mut io::sink()));
    }

    /// Returns the rest of the log, which ends with the last process that writes to it.
    pub fn rest_of_log(&mut self) -> String {
        let mut text = String::new();
        self.log.read_to_string(&mut text).unwrap();
        text
    }

    /// Sends a signal until the process has ended: wasmtime treats the first fault signal as a
    /// fault, and returns to see whether it recurs.
    pub fn end_by(&mut self, signal: i32) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            // SAFETY: it only sends a signal to a child of this process.
            assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::yield_now();
        }
        panic!("signal {signal} does not end it");
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a field of a thread's or process's status.
pub fn status(path: &Path, field: &str) -> String {
    let text = fs::read_to_string(path.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let value = line.and_then(|line| line.strip_prefix(':'));
    value
        .map(|value| value.trim().to_owned())
        .unwrap_or_default()
}

/// Returns the folders of all threads of a process.
pub fn threads(process: u32) -> Vec<PathBuf> {
    let folder = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    folder.map(|thread| thread.unwrap().path()).collect()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
