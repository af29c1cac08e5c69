//! Children: processes of this program that compile, or check, one component, within
//! limits of memory and time and in a jail of their own.
//!
//! A child gets the component by its standard input and answers by its standard
//! output, both of them files in memory; its standard error, a third, has the reason if it
//! fails. It has no other open descriptors.

mod inside;
mod job;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use manatee::component::{Component, Digest};
use manatee_check::Verdict;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{limits, sealed};

pub use inside::run;
use job::{CHECK_OUTPUT, COMPILE};
pub use job::{Job, MAX_NAME, Suite, Task, clean};

/// The hidden command that runs as a child.
pub const COMMAND: &str = "jail-child";
/// The hidden option that turns its confinement off.
pub const NO_SANDBOX: &str = "--no-sandbox";
/// The most bytes that are shown of a failed child's standard error.
const MAX_WORDS: usize = 2048;
/// The interval at which a child that waits for the processor is checked.
const STARVED_PAUSE: Duration = Duration::from_secs(5);

/// Why a child has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The child's own reason.
    #[error("{0}")]
    Said(String),
    /// A limit was reached.
    #[error("{name} takes more than {bound} to {task}, and is refused")]
    Bound {
        /// The component.
        name: String,
        /// The limit, as text.
        bound: String,
        /// The operation that failed.
        task: &'static str,
    },
    /// Other processes used the processor.
    #[error(
        "{name} could not be processed in {} s, because other processes used the processor for all \
         but {} s; try again when the machine is less busy",
        time.as_secs(), processor.as_secs()
    )]
    Starved {
        /// The component.
        name: String,
        /// Its run time.
        time: Duration,
        /// The processor time that it had.
        processor: Duration,
    },
    /// It failed otherwise.
    #[error("the process that was to {task} {name} failed ({how}){words}")]
    Failed {
        /// The component.
        name: String,
        /// The operation that failed.
        task: &'static str,
        /// Its exit status.
        how: String,
        /// The end of its standard error.
        words: String,
    },
}

impl Refusal {
    /// Returns the same refusal for a component with another name.
    pub fn of(&self, name: &str) -> Self {
        let mut same = self.clone();
        if let Self::Bound { name: own, .. } = &mut same {
            name.clone_into(own);
        }
        same
    }

    /// Returns whether the same component would be refused again.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Bound { .. })
    }
}

/// A running child. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    job: Job,
    process: Child,
    ended: OwnedFd,
    output: File,
    words: File,
    begun: Instant,
    /// The processor time that it had used at its time limit.
    used: Duration,
}

impl Running {
    /// Starts a child on the component in `wasm`.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn start(job: Job, wasm: &File, sandbox: bool) -> io::Result<Self> {
        let output = sealed::create("manatee-output")?;
        let words = sealed::create("manatee-words")?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("manatee")
            .arg(COMMAND)
            .arg(serde_json::to_string(&job)?)
            .env_clear()
            .stdin(wasm.try_clone()?)
            .stdout(output.try_clone()?)
            .stderr(words.try_clone()?);
        if !sandbox {
            command.arg(NO_SANDBOX);
        }
        let process = command.spawn()?;
        let ended = pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
        Ok(Self {
            begun: Instant::now(),
            used: Duration::ZERO,
            job,
            process,
            ended,
            output,
            words,
        })
    }

    /// Returns a descriptor that becomes readable when it has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Returns how long it may still run.
    pub fn left(&mut self) -> Duration {
        let (bounds, elapsed) = (self.job.bounds(), self.begun.elapsed());
        let left = bounds.time.saturating_sub(elapsed);
        if !left.is_zero() {
            return left;
        }
        self.used = limits::processor_time(self.process.id()).unwrap_or(self.used);
        if self.is_starved() {
            // Wake up regularly, to check its processor time.
            bounds.starved.saturating_sub(elapsed).min(STARVED_PAUSE)
        } else {
            Duration::ZERO
        }
    }

    /// Returns whether other processes used the processor for most of its time.
    fn is_starved(&self) -> bool {
        self.job.background && self.used < self.job.bounds().time / 2
    }

    /// Waits until it ends, or kills it at its time limit. Returns its answer,
    /// sealed.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn finish(mut self) -> Result<File, Refusal> {
        let in_time = self.wait();
        if !in_time {
            let _ = self.process.kill();
        }
        let status = match self.process.wait() {
            Ok(status) => status,
            Err(error) => return Err(self.failed(error.to_string())),
        };
        if status.success() {
            let mut output = self
                .output
                .try_clone()
                .map_err(|e| self.failed(e.to_string()))?;
            let sealed = sealed::seal(&mut output);
            return match sealed {
                Ok(()) => Ok(output),
                Err(error) => Err(self.failed(format!("its answer can't be sealed: {error}"))),
            };
        }
        Err(self.refusal(status, in_time))
    }

    /// Returns whether it ended in time.
    fn wait(&mut self) -> bool {
        loop {
            let left = self.left();
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // It can't be waited for, so it is killed.
                Err(_) => return false,
                Ok(_) => return true,
            }
        }
    }

    fn refusal(&mut self, status: ExitStatus, in_time: bool) -> Refusal {
        let bounds = self.job.bounds();
        let words = self.last_words();
        let gibibytes = bounds.memory as f64 / f64::from(1 << 30);
        let memory = format!("{gibibytes} GiB of memory");
        match (status.code(), status.signal()) {
            (_, _) if !in_time && self.is_starved() => Refusal::Starved {
                name: self.job.name.clone(),
                time: self.begun.elapsed(),
                processor: self.used,
            },
            (_, _) if !in_time => self.bound(format!("{} s", bounds.time.as_secs())),
            (_, Some(libc::SIGXCPU)) => self.bound(format!(
                "{} s of processor time",
                bounds.processor.as_secs()
            )),
            (_, Some(libc::SIGXFSZ)) => {
                self.bound(format!("{} MiB of machine code", bounds.output >> 20))
            }
            _ if is_lack_of_memory(&words) => self.bound(memory),
            (Some(inside::REFUSED), _) => match sealed::read(&self.output, 64 << 10) {
                Ok(text) => {
                    let text = String::from_utf8_lossy(&text);
                    if is_lack_of_memory(&text) {
                        return self.bound(memory);
                    }
                    Refusal::Said(clean(&text, MAX_WORDS))
                }
                Err(error) => self.failed(error.to_string()),
            },
            _ => {
                let words = if words.is_empty() {
                    words
                } else {
                    format!(": {words}")
                };
                Refusal::Failed {
                    name: self.job.name.clone(),
                    task: self.task(),
                    how: status.to_string(),
                    words,
                }
            }
        }
    }

    fn last_words(&mut self) -> String {
        let words = sealed::read(&self.words, 64 << 10).unwrap_or_default();
        clean(String::from_utf8_lossy(&words).trim(), MAX_WORDS)
    }

    fn task(&self) -> &'static str {
        match self.job.task {
            Task::Compile => "compile",
            Task::Check(_) => "check",
        }
    }

    fn bound(&self, bound: String) -> Refusal {
        Refusal::Bound {
            name: self.job.name.clone(),
            bound,
            task: self.task(),
        }
    }

    fn failed(&self, how: String) -> Refusal {
        Refusal::Failed {
            name: self.job.name.clone(),
            task: self.task(),
            how,
            words: String::new(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it was reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_lack_of_memory(words: &str) -> bool {
    words.contains("memory allocation of") || words.contains("os error 12")
}

/// Runs a child on the bytes of a component, without a broker.
///
/// # Errors
///
/// [`Refusal`].
fn run_on(job: Job, wasm: &[u8], sandbox: bool) -> Result<File, Refusal> {
    let failed = |error: io::Error| Refusal::Failed {
        name: job.name.clone(),
        task: "compile or check",
        how: error.to_string(),
        words: String::new(),
    };
    let wasm = sealed::with_bytes("manatee-component", wasm).map_err(failed)?;
    let running = Running::start(job.clone(), &wasm, sandbox).map_err(failed)?;
    running.finish()
}

/// Code that a child has compiled, for loading after the process is confined: loading starts
/// threads, and runs the component.
pub struct Code {
    file: File,
    digest: Digest,
    name: String,
}

impl Code {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// Why it can't be used, for people.
    pub fn load(self) -> anyhow::Result<Component> {
        load(&self.file, self.digest, &self.name)
    }
}

/// Compiles a component in a child.
///
/// # Errors
///
/// Why it can't be used, for people.
pub fn compile(wasm: &[u8], name: &str, sandbox: bool) -> anyhow::Result<Code> {
    Ok(Code {
        file: run_on(Job::new(name, Task::Compile), wasm, sandbox)?,
        digest: Digest::of(wasm),
        name: name.to_owned(),
    })
}

/// Loads code that a child has compiled.
///
/// # Errors
///
/// Why it can't be used, for people.
pub fn load(code: &File, digest: Digest, name: &str) -> anyhow::Result<Component> {
    anyhow::ensure!(
        sealed::is_sealed(code),
        "the compiled code of {name} is not sealed"
    );
    let bytes = sealed::read(code, COMPILE.output)?;
    let compiled = inside::trust(bytes);
    Ok(Component::load(&compiled, digest, name)?)
}

/// Runs the conformance suite on a component in a child.
///
/// # Errors
///
/// Why there is no verdict, for people.
pub fn check(
    wasm: &[u8],
    name: &str,
    suite: &Suite,
    sandbox: bool,
) -> anyhow::Result<Vec<Verdict>> {
    let job = Job::new(name, Task::Check(suite.clone()));
    verdicts(run_on(job, wasm, sandbox)?, suite)
}

/// Reads a child's verdicts on the requirements of a suite.
///
/// # Errors
///
/// If they are malformed, or some are missing.
pub fn verdicts(answer: File, suite: &Suite) -> anyhow::Result<Vec<Verdict>> {
    let text = sealed::read(&answer, CHECK_OUTPUT)?;
    let missed: Vec<Option<String>> = serde_json::from_slice(&text)?;
    let requirements = manatee_check::select(&suite.names)?;
    anyhow::ensure!(missed.len() == requirements.len(), "the check ended early");
    let verdict = |(requirement, missed): (&&'static manatee_check::Requirement, _)| Verdict {
        name: requirement.name,
        source: requirement.source,
        missed,
    };
    Ok(requirements.iter().zip(missed).map(verdict).collect())
}
