//! What the keeper does: it runs a process, keeps what that leaves, and runs the next.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal as Heard};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::process::{Program, Running};
use crate::protocol::{Answer, Request, Upgraded};
use crate::requests::{Client, Requests};
use crate::store::{NotifySocket, Store};

/// The name of the state of a device that was left.
const STATE: &str = "manatee-state";
/// How long a process may take to be ready: it may have a component to compile.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a process may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The first wait before a process that failed is started again; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A process that ran so long has not failed at once.
const RAN_WELL: Duration = Duration::from_secs(60);

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
enum Event {
    /// The process says that it is ready.
    Ready,
    /// The process has ended.
    Ended(ExitStatus),
    /// Somebody asks for something.
    Asked(Client, Request),
    /// A signal came.
    Signal(Heard),
    /// Nothing in time.
    Timeout,
}

struct Keeper {
    options: Options,
    program: Program,
    /// None while there is no process.
    running: Option<Running>,
    store: Store,
    notify: NotifySocket,
    requests: Option<Requests>,
    signals: SignalFd,
    /// The service manager of the keeper's own.
    manager: Option<UnixDatagram>,
    /// Processes that failed one after the other.
    failed: u32,
    /// A signal that came during an upgrade.
    put_off: Option<Heard>,
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
            store: Store::default(),
            notify: NotifySocket::bind(folder.path())?,
            requests: requests.transpose()?,
            signals: SignalFd::with_flags(&heard, flags)?,
            manager: manager()?,
            failed: 0,
            put_off: None,
            _folder: folder,
            options,
        })
    }

    fn run(mut self) -> Result<()> {
        self.start()?;
        let mut again = None;
        let mut ending = false;
        loop {
            let event = match self.put_off.take() {
                Some(signal) => Event::Signal(signal),
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
                Event::Ended(status) => again = Some(self.wait_after(status)?),
                Event::Timeout => {
                    again = None;
                    self.start()?;
                }
            }
        }
    }

    fn start(&mut self) -> Result<()> {
        let Self {
            program,
            options,
            store,
            notify,
            ..
        } = self;
        let running = Running::start(program, &options.arguments, store, notify)?;
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
    fn next(&mut self, until: Option<Instant>) -> Result<Event> {
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
            if let Some(signal) = self.signals.read_signal()? {
                let number = i32::try_from(signal.ssi_signo)?;
                return Ok(Event::Signal(Heard::try_from(number)?));
            }
            if let Some(requests) = &self.requests
                && let Some((client, request)) = requests.accept()?
            {
                return Ok(Event::Asked(client, request));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Event::Timeout);
            }
        }
    }

    fn wait(&self, until: Option<Instant>) -> Result<()> {
        let mut all: Vec<BorrowedFd<'_>> = vec![self.notify.as_fd(), self.signals.as_fd()];
        all.extend(self.requests.as_ref().map(AsFd::as_fd));
        all.extend(self.running.as_ref().map(Running::ended));
        let all = all.into_iter();
        let mut fds: Vec<_> = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
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

    /// Has another process continue.
    fn upgrade(&mut self, program: &Path) -> Result<Upgraded> {
        let next = Program::open(program)?;
        let running = self.running.as_ref();
        let running = running.filter(|running| running.ready);
        let running = running.context("the process that runs is not ready yet")?;
        let (writes, reads) = (self.program.facts.writes, next.facts.reads);
        ensure!(
            writes <= reads,
            "{} reads states up to version {reads}, and version {writes} is what {} leaves",
            program.display(),
            self.program.path.display()
        );
        let begun = Instant::now();
        running.signal(Signal::TERM);
        self.wait_end().context("the process that runs continues")?;
        let handed_over = self.store.has(STATE);
        let before = std::mem::replace(&mut self.program, next);
        let before_version = before.facts.version.clone();
        if let Err(error) = self.start().and_then(|()| self.wait_ready()) {
            if let Some(running) = self.running.take() {
                running.kill()?;
            }
            let version = std::mem::replace(&mut self.program, before).facts.version;
            self.start()?;
            self.wait_ready()
                .context("the program before can't continue either")?;
            bail!("version {version} can't continue, and the program before does again: {error:#}");
        }
        Ok(Upgraded {
            process: self.running.as_ref().map_or(0, Running::id),
            version: self.program.facts.version.clone(),
            before: before_version,
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            handed_over,
        })
    }

    /// Waits until the process has ended.
    fn wait_end(&mut self) -> Result<()> {
        let deadline = Instant::now() + ENDS_WITHIN;
        loop {
            match self.next(Some(deadline))? {
                Event::Ended(_) => return Ok(()),
                Event::Timeout => bail!("it does not end within {} s", ENDS_WITHIN.as_secs()),
                event => self.put_off(event),
            }
        }
    }

    /// Waits until the process is ready.
    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.next(Some(deadline))? {
                Event::Ready => return Ok(()),
                Event::Ended(status) => bail!("it ended with {status}; see its log"),
                Event::Timeout => bail!("it is not ready within {} s", READY_WITHIN.as_secs()),
                event => self.put_off(event),
            }
        }
    }

    /// Turns down what comes in the middle of an upgrade.
    fn put_off(&mut self, event: Event) {
        match event {
            Event::Asked(client, _) => client.answer(&Answer::Refused {
                reason: "another upgrade is under way; wait for it".to_owned(),
            }),
            Event::Signal(signal) => self.put_off = Some(signal),
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

fn say(text: &str) {
    eprintln!("manatee-keeper: {text}");
}
