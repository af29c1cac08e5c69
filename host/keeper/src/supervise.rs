//! What the keeper does: it runs a process, keeps what that leaves, and runs the next.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal as Heard};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::line::{Heard as Said, Named, Word};
use crate::process::{Program, Running, Start};
use crate::protocol::{Answer, Request};
use crate::requests::{Client, Requests};
use crate::store::{NotifySocket, Store};

/// The name of the state of a device that was left.
pub const STATE: &str = "manatee-state";
/// The first wait before a process that failed is started again; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A process that ran so long has not failed at once.
const RAN_WELL: Duration = Duration::from_secs(60);
/// A program that fails within this time after it took over is followed by the one before.
const PROBATION: Duration = Duration::from_secs(10);

/// What is kept, and how.
#[derive(Debug)]
pub struct Options {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where an operator asks for an upgrade.
    pub control: Option<PathBuf>,
    /// How often a process that fails is started again, one after the other.
    pub tries: u32,
}

/// Runs a program, and the next whenever it is to be replaced or fails, until it is told to end.
///
/// # Errors
///
/// If it can't be started, or fails too often.
pub fn keep(options: Options) -> Result<()> {
    Keeper::new(options)?.run()
}

/// Something that happened.
pub enum Event {
    /// The process says that it is ready.
    Ready,
    /// The process has ended.
    Ended(ExitStatus),
    /// The process says something by its line.
    Said(Word, Vec<Named>),
    /// The one that waits to take over does.
    StandbySaid(Word),
    /// The one that waits to take over has ended.
    StandbyEnded(ExitStatus),
    /// Somebody asks for something.
    Asked(Client, Request),
    /// A signal came.
    Signal(Heard),
    /// Nothing in time.
    Timeout,
}

pub struct Keeper {
    pub options: Options,
    pub program: Program,
    /// None while there is no process.
    pub running: Option<Running>,
    /// A process that waits until the one that serves has ended.
    pub standby: Option<Running>,
    /// A process that has left its device, and only ends.
    pub leaving: Option<Running>,
    /// The program before, and when the one that runs took over from it.
    pub before: Option<(Program, Instant)>,
    pub store: Store,
    pub notify: NotifySocket,
    requests: Option<Requests>,
    signals: SignalFd,
    /// The service manager of the keeper's own.
    manager: Option<UnixDatagram>,
    /// Processes that failed one after the other.
    failed: u32,
    /// What came during an upgrade and is seen to after it.
    put_off: VecDeque<Event>,
    _folder: tempfile::TempDir,
}

impl Keeper {
    fn new(options: Options) -> Result<Self> {
        let heard = [
            Heard::SIGTERM,
            Heard::SIGINT,
            Heard::SIGQUIT,
            Heard::SIGHUP,
            Heard::SIGUSR1,
            Heard::SIGUSR2,
        ];
        let heard = SigSet::from_iter(heard);
        heard.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let folder = tempfile::Builder::new()
            .prefix("manatee-keeper-")
            .tempdir()?;
        let requests = options.control.as_deref().map(Requests::bind);
        Ok(Self {
            program: Program::open(&options.program)?,
            running: None,
            standby: None,
            leaving: None,
            before: None,
            store: Store::default(),
            notify: NotifySocket::bind(folder.path())?,
            requests: requests.transpose()?,
            signals: SignalFd::with_flags(&heard, flags)?,
            manager: manager()?,
            failed: 0,
            put_off: VecDeque::new(),
            _folder: folder,
            options,
        })
    }

    fn run(mut self) -> Result<()> {
        self.start()?;
        let mut again = None;
        let mut ending = false;
        loop {
            let event = match self.put_off.pop_front() {
                Some(event) => event,
                None => self.next(again)?,
            };
            match event {
                Event::Ready => self.tell("READY=1\n"),
                Event::Asked(client, request) => self.answer(&client, request),
                Event::Signal(signal) => {
                    ending |= matches!(signal, Heard::SIGTERM | Heard::SIGINT | Heard::SIGQUIT);
                    match &self.running {
                        // It ends for good, and leaves nothing.
                        Some(running) if ending => running.signal(Signal::INT),
                        Some(running) => running.signal(passed_on(signal)),
                        None if ending => return Ok(()),
                        None => {}
                    }
                }
                Event::Ended(status) if ending => {
                    ensure!(status.success(), "the process ended with {status}");
                    return Ok(());
                }
                // It was told to end, or to have another continue.
                Event::Ended(status) if status.success() && !self.store.has(STATE) => return Ok(()),
                Event::Ended(status) if status.success() => again = Some(Instant::now()),
                Event::Ended(status) => {
                    self.go_back();
                    again = Some(self.wait_after(status)?);
                }
                Event::Timeout => {
                    again = None;
                    self.start()?;
                }
                Event::Said(..) | Event::StandbySaid(_) | Event::StandbyEnded(_) => {}
            }
        }
    }

    /// Goes back to the program before, if the one that has just failed took over a moment ago.
    fn go_back(&mut self) {
        let Some((before, begun)) = self.before.take() else {
            return;
        };
        if begun.elapsed() < PROBATION {
            let failed = std::mem::replace(&mut self.program, before);
            say(&format!(
                "version {} failed {} ms after it took over, and version {} is started again",
                failed.facts.version,
                begun.elapsed().as_millis(),
                self.program.facts.version
            ));
        }
    }

    /// Starts the program with what is kept.
    pub fn start(&mut self) -> Result<()> {
        let Self {
            program,
            options,
            store,
            notify,
            ..
        } = self;
        let running = Running::start(&Start {
            program,
            arguments: &options.arguments,
            named: store.named(),
            notify,
            waits: false,
        })?;
        say(&format!(
            "process {} of version {} runs, with {} descriptors that were kept",
            running.id(),
            program.facts.version,
            store.len()
        ));
        self.running = Some(running);
        Ok(())
    }

    /// Returns when a process is started after one that failed.
    fn wait_after(&mut self, status: ExitStatus) -> Result<Instant> {
        let tries = self.options.tries;
        self.failed += 1;
        if self.failed > tries {
            bail!(
                "the process ended with {status}, and {tries} that were started after one another \
                 failed as well: see its log, and start the keeper again"
            );
        }
        let doubled = 2_u32.saturating_pow(self.failed - 1);
        let wait = FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT);
        say(&format!(
            "the process ended with {status}; the next is started in {} ms ({} of {tries})",
            wait.as_millis(),
            self.failed
        ));
        Ok(Instant::now() + wait)
    }

    /// Waits for the next event, until then at the longest.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Event> {
        loop {
            self.wait(until)?;
            let process = self.running.as_ref().map(Running::id);
            // What a process said before it ended counts, so it is heard first.
            if self.notify.hear(&mut self.store, process)?
                && let Some(running) = &mut self.running
            {
                running.ready = true;
                return Ok(Event::Ready);
            }
            if let Some(running) = &mut self.running
                && let Some(status) = running.status()?
            {
                // Once more, for what was said just before.
                self.notify.hear(&mut self.store, process)?;
                if running.begun.elapsed() > RAN_WELL {
                    self.failed = 0;
                }
                self.running = None;
                return Ok(Event::Ended(status));
            }
            if let Some(leaving) = &mut self.leaving
                && leaving.status()?.is_some()
            {
                self.leaving = None;
            }
            if let Some(event) = self.talk()? {
                return Ok(event);
            }
            if let Some(signal) = self.signals.read_signal()? {
                let number = i32::try_from(signal.ssi_signo)?;
                return Ok(Event::Signal(Heard::try_from(number)?));
            }
            if let Some(requests) = &mut self.requests
                && let Some((client, request)) = requests.accept()?
            {
                return Ok(Event::Asked(client, request));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Event::Timeout);
            }
        }
    }

    /// Listens to the lines.
    fn talk(&mut self) -> Result<Option<Event>> {
        if let Some(running) = &mut self.running {
            match running.listen() {
                Said::Said(word, named) => return Ok(Some(Event::Said(word, named))),
                Said::Nothing | Said::Closed => {}
            }
        }
        let Some(standby) = &mut self.standby else {
            return Ok(None);
        };
        // What it said before it ended counts.
        if let Said::Said(word, _) = standby.listen() {
            return Ok(Some(Event::StandbySaid(word)));
        }
        let ended = standby.status()?;
        if ended.is_some() {
            self.standby = None;
        }
        Ok(ended.map(Event::StandbyEnded))
    }

    fn wait(&self, until: Option<Instant>) -> Result<()> {
        let mut all: Vec<BorrowedFd<'_>> = vec![self.notify.as_fd(), self.signals.as_fd()];
        all.extend(self.requests.iter().flat_map(Requests::news));
        all.extend(self.leaving.as_ref().map(Running::ended));
        for process in self.running.iter().chain(&self.standby) {
            all.push(process.ended());
            all.extend(process.line());
        }
        let all = all.into_iter();
        let mut fds: Vec<_> = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let patience = self.requests.as_ref().and_then(Requests::patience_ends);
        let until = until.into_iter().chain(patience).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec::try_from(left).unwrap_or_default());
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            ready => Ok(ready.map(|_| ())?),
        }
    }

    fn answer(&mut self, client: &Client, request: Request) {
        let Request::Upgrade { program } = request;
        let program = program.unwrap_or_else(|| self.program.path.clone());
        let answer = match self.upgrade(&program) {
            Ok(upgraded) => {
                say(&format!("process {} continues", upgraded.process));
                Answer::Upgraded(upgraded)
            }
            Err(error) => {
                let reason = format!("{error:#}");
                say(&format!("no upgrade: {reason}"));
                Answer::Refused { reason }
            }
        };
        client.answer(&answer);
    }

    /// Turns down what comes in the middle of an upgrade, or sees to it later.
    pub fn put_off(&mut self, event: Event) {
        match event {
            Event::Asked(client, _) => client.answer(&Answer::Refused {
                reason: "another upgrade is under way; wait for it".to_owned(),
            }),
            Event::Signal(_) | Event::Ended(_) => self.put_off.push_back(event),
            _ => {}
        }
    }

    fn tell(&self, text: &str) {
        if let Some(manager) = &self.manager {
            // Who does not listen misses it.
            let _ = manager.send(text.as_bytes());
        }
    }
}

/// Returns the signal that the process gets for one that the keeper got.
fn passed_on(signal: Heard) -> Signal {
    match signal {
        Heard::SIGUSR1 => Signal::USR1,
        Heard::SIGUSR2 => Signal::USR2,
        _ => Signal::HUP,
    }
}

/// Connects to the service manager that started the keeper, if one did.
fn manager() -> Result<Option<UnixDatagram>> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(None);
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let connected = match name.as_encoded_bytes() {
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.connect_addr(&address)
        }
        _ => socket.connect(&name),
    };
    connected.with_context(|| format!("the service manager's socket {}", name.display()))?;
    Ok(Some(socket))
}

pub fn say(text: &str) {
    eprintln!("manatee-keeper: {text}");
}
