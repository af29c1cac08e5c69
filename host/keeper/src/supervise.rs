//! The keeper's loop: it runs a process, keeps what that hands over, and runs the next.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{SigSet, Signal as Heard};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::codes::Codes;
use crate::line::{Heard as Said, Named, Word};
use crate::process::{Program, Running, Start};
use crate::protocol::{Answer, Request};
use crate::requests::{Client, Requests};
use crate::store::{NotifySocket, Store};

/// The name of the descriptor with the state of a device that was handed over.
pub const STATE: &str = "manatee-state";
/// The delay before a process that failed is restarted; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest delay.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The run time after which a failure does not count as a repeated one.
const RAN_WELL: Duration = Duration::from_secs(60);
/// One that served for so long did not fail at once: a guest waits for the next.
const SERVED: Duration = Duration::from_millis(250);
/// A program that fails within this time after it took over is replaced by the previous one.
const PROBATION: Duration = Duration::from_secs(10);

/// What to supervise, and how.
#[derive(Debug)]
pub struct Options {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The socket on which an operator requests an upgrade.
    pub control: Option<PathBuf>,
    /// How often in a row a process that fails is restarted.
    pub tries: u32,
}

/// Runs a program, and the next whenever it is to be replaced or fails, until asked to end.
///
/// # Errors
///
/// If it can't be started, or fails too often.
pub fn keep(options: Options) -> Result<()> {
    Keeper::new(options)?.run()
}

/// An event that the loop waits for.
pub enum Event {
    /// The process reports that it is ready.
    Ready,
    /// The process has ended.
    Ended(ExitStatus),
    /// The process sent a message on its line.
    Said(Word, Vec<Named>),
    /// The standby sent a message.
    StandbySaid(Word),
    /// The standby has ended.
    StandbyEnded(ExitStatus),
    /// An operator sent a request.
    Asked(Client, Request),
    /// A signal arrived.
    Signal(Heard),
    /// Nothing happened in time.
    Timeout,
}

pub struct Keeper {
    pub options: Options,
    pub program: Program,
    /// None while there is no process.
    pub running: Option<Running>,
    /// A successor that waits until the process that serves has ended.
    pub standby: Option<Running>,
    /// A process that has handed its device over, and is about to end.
    pub leaving: Option<Running>,
    /// The previous program, and when the current one took over from it.
    pub before: Option<(Program, Instant)>,
    pub store: Store,
    /// Machine code of brokers.
    pub codes: Codes,
    pub notify: NotifySocket,
    requests: Option<Requests>,
    signals: SignalFd,
    /// The keeper's own service manager.
    manager: Option<UnixDatagram>,
    /// Failures in a row.
    failed: u32,
    /// The time for which the last one served.
    served: Duration,
    /// Events that arrived during an upgrade and are handled after it.
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
            codes: Codes::default(),
            notify: NotifySocket::bind(folder.path())?,
            requests: requests.transpose()?,
            signals: SignalFd::with_flags(&heard, flags)?,
            manager: manager()?,
            failed: 0,
            served: Duration::ZERO,
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
                        // It ends for good, and hands nothing over.
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
                // It was asked to end, or to be replaced.
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

    /// Returns to the previous program, if the one that has just failed took over a moment ago.
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

    /// Starts the program with the descriptors that are kept.
    pub fn start(&mut self) -> Result<()> {
        let Self {
            program,
            options,
            store,
            codes,
            notify,
            ..
        } = self;
        let running = Running::start(&Start {
            program,
            arguments: &options.arguments,
            named: store.named().into_iter().chain(codes.named()).collect(),
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

    /// Returns when to restart the process, after one that failed.
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
        let wait = match self.served > SERVED {
            true => Duration::ZERO,
            false => FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT),
        };
        say(&format!(
            "the process ended with {status}; it is restarted in {} ms ({} of {tries})",
            wait.as_millis(),
            self.failed
        ));
        Ok(Instant::now() + wait)
    }

    /// Waits for the next event, no longer than `until`.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Event> {
        loop {
            self.wait(until)?;
            let process = self.running.as_ref().map(Running::id);
            // Messages that a process sent before it ended count, so they are handled first.
            if self.notify.hear(&mut self.store, process)?
                && let Some(running) = &mut self.running
            {
                running.ready = Some(Instant::now());
                return Ok(Event::Ready);
            }
            if let Some(running) = &mut self.running
                && let Some(status) = running.status()?
            {
                // Once more, for messages sent just before it ended.
                self.notify.hear(&mut self.store, process)?;
                let served = running.ready.map(|ready| ready.elapsed());
                self.served = served.unwrap_or_default();
                if self.served > RAN_WELL {
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

    /// Receives from the lines.
    fn talk(&mut self) -> Result<Option<Event>> {
        self.keep_codes();
        if let Some(running) = &mut self.running {
            match running.line.listen() {
                Said::Said(word, named) => return Ok(Some(Event::Said(word, named))),
                Said::Nothing | Said::Closed => {}
            }
        }
        let Some(standby) = &mut self.standby else {
            return Ok(None);
        };
        // Messages that it sent before it ended count.
        if let Said::Said(word, _) = standby.line.listen() {
            return Ok(Some(Event::StandbySaid(word)));
        }
        let ended = standby.status()?;
        if ended.is_some() {
            self.standby = None;
        }
        Ok(ended.map(Event::StandbyEnded))
    }

    /// Keeps the machine code that brokers have left.
    fn keep_codes(&mut self) {
        for process in self.running.iter_mut().chain(&mut self.standby) {
            let Said::Said(word, named) = process.broker.listen() else {
                continue;
            };
            let kept = match word {
                Word::Code => self.codes.add(named),
                _ => Err(anyhow!("a broker says something else")),
            };
            if let Err(error) = kept {
                say(&format!("process {}: {error:#}", process.id()));
                process.broker.close();
            }
        }
    }

    fn wait(&self, until: Option<Instant>) -> Result<()> {
        let mut all: Vec<BorrowedFd<'_>> = vec![self.notify.as_fd(), self.signals.as_fd()];
        all.extend(self.requests.iter().flat_map(Requests::news));
        all.extend(self.leaving.as_ref().map(Running::ended));
        for process in self.running.iter().chain(&self.standby) {
            all.push(process.ended());
            all.extend(process.line.open());
            all.extend(process.broker.open());
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

    /// Refuses a request that arrives during an upgrade, and defers a signal or an end.
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
            // A manager that does not listen misses it.
            let _ = manager.send(text.as_bytes());
        }
    }
}

/// Returns the signal to forward to the process for one that the keeper received.
fn passed_on(signal: Heard) -> Signal {
    match signal {
        Heard::SIGUSR1 => Signal::USR1,
        Heard::SIGUSR2 => Signal::USR2,
        _ => Signal::HUP,
    }
}

/// Connects to the service manager that started the keeper, if there is one.
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
