//! An upgrade: the successor is started, loads and rehearses while the current process still
//! serves, and only then is that one asked to end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::line::{Named, Word};
use crate::process::{Program, Running, Start};
use crate::protocol::Upgraded;
use crate::supervise::{Event, Keeper, STATE, say};

/// How long a process may take to offer its descriptors.
const OFFERS_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to be ready: it may compile a component first.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a process may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

impl Keeper {
    /// Replaces the process by one of `program`.
    pub fn upgrade(&mut self, program: &Path) -> Result<Upgraded> {
        let next = Program::open(program)?;
        self.check(&next)?;
        if let Some(leaving) = self.leaving.take() {
            // The device no longer belongs to the current process.
            leaving.kill()?;
        }
        let rehearsed = self.prepare(&next);
        let rehearsed = rehearsed.inspect_err(|_| self.dismiss())?;
        let begun = Instant::now();
        if let Some(running) = &self.running {
            running.signal(Signal::TERM);
        }
        if let Err(error) = self.wait_end() {
            self.dismiss();
            return Err(error.context("the process that runs continues"));
        }
        let handed_over = self.store.has(STATE);
        let before = std::mem::replace(&mut self.program, next);
        let before_version = before.facts.version.clone();
        if let Err(error) = self.continue_with(handed_over) {
            if let Some(running) = self.running.take() {
                running.kill()?;
            }
            let version = std::mem::replace(&mut self.program, before).facts.version;
            self.start()?;
            self.wait_ready()
                .context("the program before can't continue either")?;
            bail!("version {version} can't continue, and the program before does again: {error:#}");
        }
        self.before = Some((before, Instant::now()));
        Ok(Upgraded {
            process: self.running.as_ref().map_or(0, Running::id),
            version: self.program.facts.version.clone(),
            before: before_version,
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            handed_over,
            rehearsed,
        })
    }

    /// Checks that the process is ready, and that the next program can read the state it writes.
    fn check(&self, next: &Program) -> Result<()> {
        let running = self.running.as_ref();
        let ready = running.is_some_and(|running| running.ready.is_some());
        ensure!(ready, "the process that runs is not ready yet");
        let (writes, reads) = (self.program.facts.writes, next.facts.reads);
        ensure!(
            writes <= reads,
            "{} reads states up to version {reads}, and version {writes} is what {} leaves",
            next.path.display(),
            self.program.path.display()
        );
        Ok(())
    }

    /// Starts a successor that waits, and has it rehearse. Returns false if it can only be started
    /// once the current process has ended.
    fn prepare(&mut self, next: &Program) -> Result<bool> {
        if !next.facts.stands_by || !self.program.facts.stands_by {
            return Ok(false);
        }
        let Some(named) = self.wait_offer()? else {
            return Ok(false);
        };
        let named: Vec<_> = named
            .iter()
            .map(|(name, fd)| (&**name, std::os::fd::AsFd::as_fd(fd)))
            .chain(self.codes.named())
            .collect();
        let standby = Running::start(&Start {
            program: next,
            arguments: &self.options.arguments,
            named,
            notify: &self.notify,
            waits: true,
        })?;
        say(&format!(
            "process {} of version {} starts in parallel with the one that serves, to take over",
            standby.id(),
            next.facts.version
        ));
        self.standby = Some(standby);
        self.wait_rehearsed().with_context(|| {
            format!(
                "version {} can't take over, and the process that serves continues",
                next.facts.version
            )
        })?;
        Ok(true)
    }

    /// Asks the current process for copies of what a successor needs. None if no successor can
    /// run in parallel with it.
    fn wait_offer(&mut self) -> Result<Option<Vec<Named>>> {
        let running = self.running.as_ref().context("no process runs")?;
        let asked = running.line.say(Word::Offer, &[]);
        asked.context("asking the process that runs for what it has")?;
        let deadline = Instant::now() + OFFERS_WITHIN;
        loop {
            match self.next(Some(deadline))? {
                Event::Said(Word::Offered, named) => return Ok(Some(named)),
                Event::Said(Word::Alone { reason }, _) => {
                    say(&format!(
                        "no successor can be started in parallel with it: {reason}"
                    ));
                    return Ok(None);
                }
                Event::Said(Word::Refused { reason }, _) => {
                    bail!("the process that runs does not offer its device: {reason}")
                }
                event => self.unexpected(event, deadline, OFFERS_WITHIN)?,
            }
        }
    }

    /// Waits until the successor reports that it can take over.
    fn wait_rehearsed(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.next(Some(deadline))? {
                Event::StandbySaid(Word::Ready) => return Ok(()),
                Event::StandbySaid(Word::Refused { reason }) => bail!("{reason}"),
                Event::StandbyEnded(status) => bail!("it ended with {status}; see its log"),
                event => self.unexpected(event, deadline, READY_WITHIN)?,
            }
        }
    }

    /// Handles an event that is not the awaited one, while the current process serves.
    fn unexpected(&mut self, event: Event, deadline: Instant, within: Duration) -> Result<()> {
        match event {
            Event::Ended(status) => {
                self.put_off(Event::Ended(status));
                bail!("the process that runs ended meanwhile, with {status}");
            }
            Event::Timeout if Instant::now() >= deadline => {
                bail!("nothing was heard of it for {} s", within.as_secs())
            }
            event => {
                self.put_off(event);
                Ok(())
            }
        }
    }

    /// Kills a successor that is not needed.
    fn dismiss(&mut self) {
        if let Some(standby) = self.standby.take() {
            // It owns nothing that would be lost.
            let _ = standby.kill();
        }
    }

    /// Has the waiting successor take over what was handed over; or starts one, if none waits or
    /// nothing was handed over.
    fn continue_with(&mut self, handed_over: bool) -> Result<()> {
        match self.standby.take() {
            Some(standby) if handed_over => {
                let told = standby.line.say(Word::TakeOver, &self.store.named());
                self.running = Some(standby);
                told.context("handing over to the process that waits")?;
            }
            standby => {
                self.standby = standby;
                self.dismiss();
                self.start()?;
            }
        }
        self.wait_ready()
    }

    /// Waits until the process has ended, or has handed everything over.
    fn wait_end(&mut self) -> Result<()> {
        let deadline = Instant::now() + ENDS_WITHIN;
        loop {
            match self.next(Some(deadline))? {
                Event::Ended(_) => return Ok(()),
                // From now on it touches nothing that its successor owns.
                Event::Said(Word::Left, _) if self.store.has(STATE) => {
                    self.leaving = self.running.take();
                    return Ok(());
                }
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
                Event::Said(Word::Refused { reason }, _) => bail!("{reason}"),
                Event::Ended(status) => bail!("it ended with {status}; see its log"),
                Event::Timeout => bail!("it is not ready within {} s", READY_WITHIN.as_secs()),
                event => self.put_off(event),
            }
        }
    }
}
