//! The supervised process, and how it is started with the descriptors that are kept for it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::SigSet;
use rustix::event::PollFlags;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::line::{Heard, Line, STANDBY, Word, wait_for};
use crate::names::{BROKER_LINE, KEEPER, LINE};
use crate::store::{MOST, NotifySocket};

/// The hidden command by which this program executes the supervised one.
pub const LAUNCH: &str = "launch";
/// The hidden command by which a program describes itself.
pub const FACTS: &str = "hand-over-facts";
/// The number of the first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// Descriptors that are sent in one message.
const BATCH: usize = 128;
/// How long a program may take to describe itself.
const ASKED_WITHIN: Duration = Duration::from_secs(20);
/// The longest description in bytes.
const MAX_WORDS: u64 = 64 << 10;

/// A program's file, opened once: a file that replaces it at its path later changes nothing.
#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    file: File,
    pub facts: Facts,
}

/// A program's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    /// The version of the states that it writes, and the newest that it reads.
    pub writes: u64,
    pub reads: u64,
    /// Whether it can be started while its predecessor serves, and wait until that ends.
    pub stands_by: bool,
}

impl Program {
    /// Opens a program, and asks it to describe itself.
    ///
    /// # Errors
    ///
    /// If it is no manatee, or one that can't hand its device over.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("opening {shown}"))?;
        let facts = ask(&file);
        let facts =
            facts.with_context(|| format!("{shown} is not a manatee that can take over"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            facts,
        })
    }
}

/// The path of a program that is a process's standard input. It works with any mount of /proc,
/// and for a script's interpreter, which opens the file once more.
const STANDARD_INPUT: &str = "/proc/self/fd/0";

/// Asks a program to describe itself.
fn ask(program: &File) -> Result<Facts> {
    let words = File::from(rustix::fs::memfd_create(
        "words",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    let mut child = Command::new(STANDARD_INPUT)
        .arg0("manatee")
        .arg(FACTS)
        .stdin(program.try_clone()?)
        .stdout(words.try_clone()?)
        .stderr(Stdio::null())
        .spawn()
        .context("it can't be started")?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let in_time = readable(&ended, ASKED_WITHIN)?;
    if !in_time {
        let _ = child.kill();
    }
    let status = child.wait()?;
    ensure!(
        in_time,
        "it does not answer within {} s",
        ASKED_WITHIN.as_secs()
    );
    ensure!(
        status.success(),
        "asked to describe itself, it ended with {status}"
    );
    let length = words.metadata()?.len();
    ensure!(
        length <= MAX_WORDS,
        "asked to describe itself, it answered with {length} bytes"
    );
    let mut text = vec![0; length as usize];
    std::os::unix::fs::FileExt::read_exact_at(&words, &mut text, 0)?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Facts> {
    let said: serde_json::Value =
        serde_json::from_slice(text).context("its description is not JSON")?;
    let number = |name: &str| said["hand_over"][name].as_u64();
    let (Some(version), Some(writes), Some(reads)) =
        (said["version"].as_str(), number("writes"), number("reads"))
    else {
        bail!("it does not say which versions of states it reads");
    };
    let clean = version.chars().filter(|c| !c.is_control()).take(64);
    Ok(Facts {
        version: clean.collect(),
        writes,
        reads,
        stands_by: said["hand_over"]["stands_by"].as_bool().unwrap_or(false),
    })
}

/// A running process.
#[derive(Debug)]
pub struct Running {
    child: Child,
    ended: OwnedFd,
    /// The line to it.
    pub line: End,
    /// The line to its broker.
    pub broker: End,
    /// When it was ready, if it is.
    pub ready: Option<Instant>,
}

/// The keeper's end of a line.
#[derive(Debug)]
pub struct End {
    line: Line,
    hung_up: bool,
}

impl End {
    /// Creates a line: the keeper's end, and the one to inherit.
    fn pair() -> io::Result<(Self, OwnedFd)> {
        let (line, theirs) = Line::pair()?;
        let hung_up = false;
        Ok((Self { line, hung_up }, theirs))
    }

    /// Returns its descriptor, while the line is open.
    pub fn open(&self) -> Option<BorrowedFd<'_>> {
        (!self.hung_up).then(|| self.line.as_fd())
    }

    /// Receives from the line. An invalid message closes it.
    pub fn listen(&mut self) -> Heard {
        if self.hung_up {
            return Heard::Closed;
        }
        let heard = self.line.listen().unwrap_or(Heard::Closed);
        self.hung_up = matches!(heard, Heard::Closed);
        heard
    }

    /// Receives nothing more.
    pub fn close(&mut self) {
        self.hung_up = true;
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// If the other end is closed, or does not read.
    pub fn say(&self, word: Word, descriptors: &[(&str, BorrowedFd<'_>)]) -> io::Result<()> {
        self.line.say(word, descriptors)
    }
}

/// What a process is started with.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    pub program: &'a Program,
    pub arguments: &'a [OsString],
    /// Descriptors with their names.
    pub named: Vec<(&'a str, BorrowedFd<'a>)>,
    pub notify: &'a NotifySocket,
    /// Whether it waits until its predecessor has handed the device over.
    pub waits: bool,
}

impl Running {
    /// Starts a program.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn start(start: &Start<'_>) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let (line, its_end) = End::pair()?;
        let (broker, brokers_end) = End::pair()?;
        let mut named = start.named.clone();
        named.push((LINE, its_end.as_fd()));
        named.push((BROKER_LINE, brokers_end.as_fd()));
        let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("manatee-keeper")
            .arg(LAUNCH)
            .args(start.arguments)
            .env("NOTIFY_SOCKET", start.notify.path())
            .env("FDSTORE", MOST.to_string())
            .env(KEEPER, "1")
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_USEC")
            .env_remove(STANDBY)
            .stdin(theirs);
        if start.waits {
            command.env(STANDBY, "1");
        }
        let child = command.spawn().context("starting a process")?;
        drop(command);
        let descriptors = named.iter().map(|(_, descriptor)| *descriptor);
        let descriptors: Vec<_> = [start.program.file.as_fd()]
            .into_iter()
            .chain(descriptors)
            .collect();
        let running = Self {
            ended: pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?,
            child,
            line,
            broker,
            ready: None,
        };
        for batch in descriptors.chunks(BATCH) {
            send(&ours, batch).context("handing descriptors over")?;
        }
        Ok(running)
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns a descriptor that is readable once the process has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Sends it a signal. Does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it, and returns its exit status.
    pub fn kill(mut self) -> io::Result<ExitStatus> {
        let _ = self.child.kill();
        self.child.wait()
    }

    /// Returns its exit status, if it has ended.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

fn send(socket: &OwnedFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("there is no room for descriptors"));
    }
    let parts = [IoSlice::new(b".")];
    sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Executes the supervised program: receives its file and the descriptors from the socket that
/// is standard input, renumbers the descriptors from 3 on, sets `LISTEN_PID`, and executes the file.
///
/// # Errors
///
/// If the keeper is gone, or a system call fails.
pub fn launch(arguments: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible> {
    let count: usize = std::env::var("LISTEN_FDS").map_or(Ok(0), |count| count.parse())?;
    let mut taken: Vec<OwnedFd> = Vec::new();
    while taken.len() <= count {
        let before = taken.len();
        receive(io::stdin().as_fd(), &mut taken)?;
        ensure!(taken.len() > before, "the keeper is gone");
    }
    let program = number(taken)?;
    rustix::stdio::dup2_stdin(&program)?;
    SigSet::empty().thread_set_mask()?;
    let error = Command::new(STANDARD_INPUT)
        .arg0("manatee")
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .exec();
    Err(error).context("executing the program")
}

/// Renumbers all descriptors but the first from 3 on, and lets the program inherit them. The
/// first is the program itself.
#[allow(unsafe_code)]
fn number(taken: Vec<OwnedFd>) -> Result<OwnedFd> {
    let count = i32::try_from(taken.len())?;
    // Move them to higher numbers than all that are assigned below.
    let mut aside = taken
        .iter()
        .map(|descriptor| fcntl_dupfd_cloexec(descriptor, FIRST + count))
        .collect::<rustix::io::Result<Vec<_>>>()?;
    drop(taken);
    let program = aside.remove(0);
    for (number, descriptor) in (FIRST..).zip(&aside) {
        // SAFETY: nothing in this process owns the number. It has one thread, which has
        // opened nothing but what is in `aside`, and that has higher numbers; what was
        // open with this number came along from whoever started the keeper. `dup2` replaces it.
        let mut place = unsafe { OwnedFd::from_raw_fd(number) };
        let done = rustix::io::dup2(descriptor, &mut place);
        // The program owns it now.
        let _ = place.into_raw_fd();
        done?;
    }
    Ok(program)
}

fn receive(socket: BorrowedFd<'_>, taken: &mut Vec<OwnedFd>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut control, RecvFlags::empty())?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            taken.extend(descriptors);
        }
    }
    Ok(())
}

/// Waits until a descriptor is readable; returns false if it is not in time.
pub fn readable(fd: impl AsFd, patience: Duration) -> io::Result<bool> {
    wait_for(fd, PollFlags::IN, patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_no_manatee_are_refused() {
        let error = |path: &str| format!("{:#}", Program::open(Path::new(path)).unwrap_err());
        assert!(error("/bin/false").contains("is not a manatee that can take over"));
        assert!(error("/bin/true").contains("not JSON"));
        assert!(error("/no/such/file").contains("opening /no/such/file"));
        assert!(error("/dev/null").contains("can't be started"));
    }

    #[test]
    fn program_says_what_it_reads() {
        let facts = parse(br#"{"version":"1.2\n","hand_over":{"writes":2,"reads":3}}"#).unwrap();
        assert_eq!((&*facts.version, facts.writes, facts.reads), ("1.2", 2, 3));
        assert!(!facts.stands_by);
        let text = br#"{"version":"1","hand_over":{"writes":2,"reads":3,"stands_by":true}}"#;
        assert!(parse(text).unwrap().stands_by);
        let old = parse(br#"{"version":"0.1.0"}"#).unwrap_err().to_string();
        assert!(old.contains("which versions of states"), "{old}");
    }
}
