//! Runs the command, and waits for events instead of times.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;
use vfio_user::Client;

/// The longest that any step may take: compiling the component in a debug build
/// on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The region of configuration space, as in vfio-pci.
pub const CONFIG: u32 = 7;
pub const MSIX: u32 = 2;

pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_manatee"))
}

/// A running `manatee serve` with a loopback port.
pub struct Manatee {
    child: Child,
    dir: Rc<TempDir>,
}

impl Manatee {
    /// Starts it, and returns when it is ready.
    pub fn start() -> Self {
        Self::start_in(Rc::new(tempfile::tempdir().unwrap()))
    }

    pub fn start_in(dir: Rc<TempDir>) -> Self {
        let command = serve(&dir.path().join("vfio.sock"));
        Self::start_by(dir, command)
    }

    /// Starts it with a limit of descriptors.
    pub fn start_with_descriptors(most: u64) -> Self {
        let dir = Rc::new(tempfile::tempdir().unwrap());
        let serve = serve(&dir.path().join("vfio.sock"));
        // The limit of a confined process can't be changed from outside later.
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={most}:{most}"))
            .arg(serve.get_program())
            .args(serve.get_args());
        Self::start_by(dir, command)
    }

    /// Starts it with a command that serves at `vfio.sock` in this directory.
    pub fn start_by(dir: Rc<TempDir>, mut command: Command) -> Self {
        let control = dir.path().join("control.sock");
        command.arg("--control").arg(control);
        Self::start_as_it_is(dir, command)
    }

    /// Starts it with a complete command, which inherits NOTIFY_SOCKET.
    pub fn start_as_it_is(dir: Rc<TempDir>, mut command: Command) -> Self {
        let notify = dir.path().join("notify");
        let readiness = UnixDatagram::bind(&notify).unwrap();
        readiness.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = command
            .env("NOTIFY_SOCKET", &notify)
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let manatee = Self { child, dir };
        let mut message = [0; 256];
        match readiness.recv(&mut message) {
            Ok(length) => assert!(message[..length].starts_with(b"READY=1\n")),
            Err(error) => panic!("not ready: {error}\n{}", manatee.log()),
        }
        std::fs::remove_file(notify).unwrap();
        manatee
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("vfio.sock")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Attaches as a VMM.
    pub fn attach(&self) -> Client {
        match Client::new(&self.socket()) {
            Ok(client) => client,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    /// Returns the live tree.
    pub fn inspect(&self) -> serde_json::Value {
        let mut client = manatee_control::Client::connect(&self.control()).unwrap();
        client.inspect(None).unwrap()
    }

    /// Returns the number of its open descriptors.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.unwrap().count()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Manatee {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of manatee serve ---\n{}", self.log());
        }
    }
}

/// Returns the command that serves a loopback port at a socket.
pub fn serve(socket: &Path) -> Command {
    let mut command = command();
    command
        .arg("serve")
        .arg("--socket")
        .arg(socket)
        .args(["--port", "loopback"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Waits for a process to end.
pub fn wait(child: &mut Child) -> ExitStatus {
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    assert!(readable(process.unwrap(), DEADLINE), "still running");
    child.wait().unwrap()
}

/// Returns whether a descriptor becomes readable in time.
pub fn readable(fd: impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec::try_from(patience).unwrap();
    rustix::event::poll(&mut fds, Some(&patience)).unwrap() > 0
}

pub fn config_u16(client: &mut Client, offset: u64) -> u16 {
    let mut data = [0; 2];
    client.region_read(CONFIG, offset, &mut data).unwrap();
    u16::from_le_bytes(data)
}

pub fn config_u32(client: &mut Client, offset: u64) -> u32 {
    let mut data = [0; 4];
    client.region_read(CONFIG, offset, &mut data).unwrap();
    u32::from_le_bytes(data)
}

/// Creates memory that can be shared with the device.
pub fn memfd(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}
