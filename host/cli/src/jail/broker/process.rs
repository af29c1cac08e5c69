//! The broker's own process.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use manatee::component::Digest;
use manatee_keeper::line::{Line, Word};
use manatee_keeper::names::code_name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, statat, unlinkat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::CapabilitySet;

use super::request::{Answer, Begin, Request, SocketFile};
use super::wire;
use crate::jail::child::{Job, Refusal, Running, Task};
use crate::jail::{Jail, Paths, Role, sealed, signals};

/// The most compiled components that are cached.
const MAX_COMPILED: usize = 4;
/// The most components whose refusal is remembered.
const MAX_REFUSED: usize = 64;

/// Serves requests from the socket on standard input, until that is closed.
pub fn run() -> ExitCode {
    signals::ignore_endings();
    let socket = io::stdin();
    match begin(socket.as_fd()) {
        Ok(mut broker) => {
            let served = broker.serve(socket.as_fd());
            if broker.owns {
                broker.sockets.iter().for_each(Removable::remove);
            }
            match served {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: the broker: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            let refused = Answer::Refused(format!("the broker can't be confined: {error:#}"));
            let _ = wire::send(socket.as_fd(), &refused, None);
            ExitCode::FAILURE
        }
    }
}

/// A confined broker.
struct Process {
    sockets: Vec<Removable>,
    /// Whether to remove them at the end.
    owns: bool,
    peers: Vec<PathBuf>,
    sandbox: bool,
    known: Known,
    /// The line on which machine code is left for later processes.
    keeper: Option<Line>,
}

fn begin(socket: BorrowedFd<'_>) -> anyhow::Result<Process> {
    let Some((Request::Begin(begin), keeper)) = wire::receive(socket)? else {
        bail!("it got no configuration");
    };
    let Begin {
        sockets,
        peers,
        ids,
        sandbox,
        waits,
    } = begin;
    let removable: Vec<PathBuf> = sockets.iter().map(|s| s.folder().to_owned()).collect();
    let sockets = sockets.into_iter().map(Removable::open);
    let sockets = sockets.collect::<io::Result<_>>()?;
    if sandbox {
        let mut jail = Jail::new(Role::Broker);
        jail.ids = ids;
        // The folders may belong to another user than the one it becomes.
        jail.keep = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
        jail.paths = Paths {
            removable,
            program: true,
        };
        jail.enter()?;
    }
    wire::send(socket, &Answer::Done, None)?;
    Ok(Process {
        sockets,
        owns: !waits,
        peers,
        sandbox,
        known: Known::default(),
        keeper: keeper.map(Line::new),
    })
}

/// The file of a socket, which is removed at the end.
struct Removable {
    folder: OwnedFd,
    file: SocketFile,
    /// Keeps the inode's number from being given to the socket of a successor, which
    /// may bind the same path before this process has noticed that its own is dead.
    _inode: OwnedFd,
}

impl Removable {
    fn open(file: SocketFile) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let folder = rustix::fs::open(file.folder(), flags | OFlags::DIRECTORY, Mode::empty())?;
        let flags = flags | OFlags::NOFOLLOW;
        let inode = rustix::fs::open(&file.path, flags, Mode::empty())?;
        Ok(Self {
            folder,
            file,
            _inode: inode,
        })
    }

    /// Removes the file, unless another one has replaced it.
    fn remove(&self) {
        let Some(name) = self.file.path.file_name() else {
            return;
        };
        let same = statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (self.file.device, self.file.inode));
        if same && let Err(error) = unlinkat(&self.folder, name, AtFlags::empty()) {
            let path = self.file.path.display();
            eprintln!("error: the broker can't remove the socket {path}: {error}");
        }
    }
}

impl Process {
    fn serve(&mut self, socket: BorrowedFd<'_>) -> anyhow::Result<()> {
        while let Some((request, file)) = wire::receive(socket)? {
            let outcome = match request {
                Request::Begin(_) => bail!("it got two configurations"),
                Request::Leave | Request::Own => {
                    self.owns = matches!(request, Request::Own);
                    wire::send(socket, &Answer::Done, None).context("answering")?;
                    continue;
                }
                Request::Connect(peer) => self.connect(peer),
                Request::Start { job, digest } => {
                    let Some(outcome) = self.start(socket, job, digest, file)? else {
                        return Ok(());
                    };
                    outcome.map(OwnedFd::from)
                }
            };
            let sent = match outcome {
                Ok(file) => wire::send(socket, &Answer::Done, Some(file.as_fd())),
                Err(reason) => wire::send(socket, &Answer::Refused(reason), None),
            };
            match sent {
                // The process has ended; the next receive reports that.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                sent => sent.context("answering")?,
            }
        }
        Ok(())
    }

    /// Connects to a peer, if that accepts connections. No other path can be requested.
    fn connect(&self, peer: usize) -> Result<OwnedFd, String> {
        let path = self.peers.get(peer).ok_or("there is no such peer")?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connected = SocketAddrUnix::new(path).and_then(|address| {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // It does not wait for a peer whose backlog is full.
            connect(&socket, &address)?;
            Ok(socket)
        });
        connected.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Runs a job in a child. Returns None if the requester has ended.
    fn start(
        &mut self,
        socket: BorrowedFd<'_>,
        job: Job,
        digest: [u8; 32],
        wasm: Option<OwnedFd>,
    ) -> anyhow::Result<Option<Result<File, String>>> {
        let wasm = File::from(wasm.context("a job without a component")?);
        ensure!(sealed::is_sealed(&wasm), "a component that is not sealed");
        let key = Key {
            compile: job.task == Task::Compile,
            digest,
        };
        if let Some(known) = self.known.get(&key, &job.name) {
            let known = known?;
            self.leave(&key, &known);
            return Ok(Some(known));
        }
        let mut running = match Running::start(job, &wasm, self.sandbox) {
            Ok(running) => running,
            Err(error) => {
                return Ok(Some(Err(format!("no process can be started: {error}"))));
            }
        };
        if !wait(socket, &mut running)? {
            return Ok(None);
        }
        let outcome = running.finish();
        self.known.keep(key, &outcome)?;
        let outcome = outcome.map_err(|refusal| refusal.to_string());
        self.leave(&key, &outcome);
        Ok(Some(outcome))
    }

    /// Leaves machine code with the keeper, if there is one. What is stored under the digest of
    /// another component is refused by whoever loads it: the code has its component's digest.
    fn leave(&mut self, key: &Key, outcome: &Result<File, String>) {
        let (Some(keeper), Ok(code), true) = (&self.keeper, outcome, key.compile) else {
            return;
        };
        let name = code_name(Digest(key.digest));
        if let Err(error) = keeper.say(Word::Code, &[(&name, code.as_fd())]) {
            eprintln!("error: the broker can't leave machine code with the keeper: {error}");
            self.keeper = None;
        }
    }
}

/// Waits for the end of a child, at most until its time limit. Returns false if the
/// requester has ended.
fn wait(socket: BorrowedFd<'_>, running: &mut Running) -> io::Result<bool> {
    loop {
        let left = running.left();
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let ended = running.ended();
        let mut fds = [
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(&socket, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(true),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            // Only one request is made at a time, so this is the end of the socket.
            Ok(_) => return Ok(fds[1].revents().is_empty()),
        }
    }
}

/// A job on a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    compile: bool,
    digest: [u8; 32],
}

/// Cached results for components: one that failed to compile is refused at once the second time.
#[derive(Debug, Default)]
struct Known {
    compiled: VecDeque<(Key, File)>,
    refused: VecDeque<(Key, Refusal)>,
}

impl Known {
    /// Returns the earlier result for a component, whose name is `name` now.
    fn get(&self, key: &Key, name: &str) -> Option<io::Result<Result<File, String>>> {
        let refused = self.refused.iter().find(|(known, _)| known == key);
        if let Some((_, refusal)) = refused {
            return Some(Ok(Err(format!("{} (as before)", refusal.of(name)))));
        }
        let (_, code) = self.compiled.iter().find(|(known, _)| known == key)?;
        Some(code.try_clone().map(Ok))
    }

    fn keep(&mut self, key: Key, outcome: &Result<File, Refusal>) -> io::Result<()> {
        match outcome {
            Ok(code) if key.compile => {
                self.compiled.truncate(MAX_COMPILED - 1);
                self.compiled.push_front((key, code.try_clone()?));
            }
            Err(refusal) if refusal.is_for_good() => {
                self.refused.truncate(MAX_REFUSED - 1);
                self.refused.push_front((key, refusal.clone()));
            }
            _ => {}
        }
        Ok(())
    }
}
