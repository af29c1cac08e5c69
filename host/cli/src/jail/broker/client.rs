//! The broker, as seen by the process that started it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use manatee::component::Digest;
use parking_lot::Mutex;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::request::{Answer, Begin, COMMAND, Request};
use super::wire;
use crate::jail::child::Job;

/// The longest that it may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer its answer may take than the child.
const MARGIN: Duration = Duration::from_secs(30);

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    socket: OwnedFd,
    process: Mutex<Child>,
    pid: u32,
    ended: OwnedFd,
    /// Held during a request.
    asking: Mutex<()>,
    gone: AtomicBool,
}

impl Broker {
    /// Starts a broker and waits until it is confined. It leaves machine code with the keeper at the
    /// other end of `keeper`, if there is one.
    ///
    /// # Errors
    ///
    /// Why it can't be started.
    pub fn start(begin: &Begin, keeper: Option<OwnedFd>) -> anyhow::Result<Self> {
        let (ours, theirs) = wire::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0("manatee")
            .arg(COMMAND)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()?;
        let ended = pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
        let broker = Self {
            pid: process.id(),
            socket: ours,
            process: Mutex::new(process),
            ended,
            asking: Mutex::new(()),
            gone: AtomicBool::new(false),
        };
        let keeper = keeper.as_ref().map(AsFd::as_fd);
        broker.ask(&Request::Begin(begin.clone()), keeper, PATIENCE)?;
        Ok(broker)
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether it is known to have ended.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Returns whether it has ended; if so, reaps it.
    pub fn has_ended(&self) -> bool {
        let ended = matches!(self.process.lock().try_wait(), Ok(Some(_)) | Err(_));
        self.gone.fetch_or(ended, Ordering::Relaxed) || ended
    }

    /// Lets a child do a job on the component in a sealed file. Returns its answer,
    /// which is sealed too.
    ///
    /// # Errors
    ///
    /// Why there is none, for people.
    pub fn run(&self, job: Job, wasm: &File, digest: Digest) -> anyhow::Result<File> {
        let time = job.bounds().starved + MARGIN;
        let answer = self.ask(&Request::start(job, digest), Some(wasm.as_fd()), time)?;
        answer
            .map(File::from)
            .context("the broker's answer lacks a descriptor")
    }

    /// Makes it connect to the peer with this index, once.
    ///
    /// # Errors
    ///
    /// Why there is no connection, for people.
    pub fn connect(&self, peer: usize) -> anyhow::Result<OwnedFd> {
        let answer = self.ask(&Request::Connect(peer), None, PATIENCE)?;
        answer.context("the broker's answer lacks a descriptor")
    }

    fn ask(
        &self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        time: Duration,
    ) -> anyhow::Result<Option<OwnedFd>> {
        let _asking = self.asking.lock();
        let socket = self.socket.as_fd();
        let answer = wire::send(socket, request, file).and_then(|()| {
            if wire::wait(socket, time)? {
                wire::receive(socket)
            } else {
                Err(io::ErrorKind::TimedOut.into())
            }
        });
        match answer {
            Ok(Some((Answer::Done, file))) => Ok(file),
            Ok(Some((Answer::Refused(reason), _))) => bail!("{reason}"),
            Ok(None) => bail!("{}", self.lost("it has ended")),
            Err(error) => {
                // A late answer would be mistaken for the answer to the next request.
                let _ = shutdown(&self.socket, Shutdown::Both);
                bail!("{}", self.lost(&error.to_string()))
            }
        }
    }

    fn lost(&self, why: &str) -> String {
        format!(
            "the broker, process {}, which compiles and checks components, does not answer \
             ({why}); the device continues, and `manatee serve` has to be started again before \
             its component can be replaced",
            self.pid
        )
    }

    /// Makes it keep the sockets' files at the end: another process has the sockets now.
    pub fn leave_sockets(&self) {
        if let Err(error) = self.ask(&Request::Leave, None, PATIENCE) {
            tracing::warn!("the sockets' files may be removed: {error:#}");
        }
    }

    /// Makes it remove the sockets' files at the end: the previous process has handed them over.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn own_sockets(&self) -> anyhow::Result<()> {
        self.ask(&Request::Own, None, PATIENCE).map(|_| ())
    }

    /// Makes it remove the sockets and end, if it has not.
    pub fn end(&self) {
        if self.is_gone() {
            return;
        }
        self.gone.store(true, Ordering::Relaxed);
        // It may have ended already.
        let _ = shutdown(&self.socket, Shutdown::Write);
        match wire::wait(&self.ended, PATIENCE) {
            Ok(true) => drop(self.process.lock().wait()),
            _ => tracing::warn!(process = self.pid, "the broker does not end; leaving it"),
        }
    }
}
