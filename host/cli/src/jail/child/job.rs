//! The jobs of a child, and its limits.

use std::time::Duration;

use manatee_check::SuiteLimits;
use serde::{Deserialize, Serialize};

/// The longest name of a component in messages, in characters.
pub const MAX_NAME: usize = 256;

/// A job of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The component's name in messages.
    pub name: String,
    /// What to do.
    pub task: Task,
    /// Whether it runs in parallel with a served device, which it must not disturb: it
    /// runs at idle priority.
    pub background: bool,
}

/// See [`Job`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Compile it.
    Compile,
    /// Compile it and run it against the conformance suite.
    Check(Suite),
}

/// How to run the conformance suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// Which requirements, as [`manatee_check::select`] has it.
    pub names: Vec<String>,
    requirement: Duration,
    total: Duration,
    memory: usize,
}

impl Suite {
    /// Creates a suite of these requirements within these limits.
    pub fn new(names: &[String], limits: &SuiteLimits) -> Self {
        Self {
            names: names.to_vec(),
            requirement: limits.requirement,
            total: limits.total,
            memory: limits.memory,
        }
    }

    /// Returns a suite of all requirements, in the background.
    pub fn in_background() -> Self {
        Self::new(&[], &PATIENT)
    }

    /// Returns the limits of the suite itself.
    pub fn limits(&self) -> SuiteLimits {
        SuiteLimits {
            requirement: self.requirement,
            total: self.total,
            memory: self.memory,
        }
    }
}

/// The limits of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Private memory, in bytes.
    pub memory: u64,
    /// Processor time.
    pub processor: Duration,
    /// Wall-clock time.
    pub time: Duration,
    /// Wall-clock time, if it had the processor for less than half of `time`: at the lowest
    /// priority it may have to wait on a busy machine through no fault of its own.
    pub starved: Duration,
    /// The most bytes that it may write.
    pub output: u64,
}

/// The limits for compiling.
pub(super) const COMPILE: Bounds = Bounds {
    memory: 1 << 30,
    processor: Duration::from_secs(60),
    time: Duration::from_secs(60),
    starved: Duration::from_secs(300),
    output: 256 << 20,
};

/// The limits of the suite when it runs in parallel with a device. They are wall-clock time,
/// during which other processes may have the processor.
const PATIENT: SuiteLimits = SuiteLimits {
    requirement: Duration::from_secs(30),
    total: Duration::from_secs(240),
    memory: 64 << 20,
};

/// The memory of a check without the linear memories of its devices.
const CHECK_MEMORY: u64 = 1 << 30;
/// The number of linear memories that a check has at once: devices, each with a testbed and a
/// runner.
const CHECK_MEMORIES: u64 = 12;
/// The most bytes of a check's output: a line for each requirement.
pub(super) const CHECK_OUTPUT: u64 = 16 << 20;

impl Job {
    /// Creates a job on a component of this name, which is cleaned and truncated.
    pub fn new(name: &str, task: Task) -> Self {
        Self {
            name: clean(name, MAX_NAME),
            task,
            background: false,
        }
    }

    /// Returns the same job in the background.
    pub fn in_background(mut self) -> Self {
        self.background = true;
        self
    }

    fn suite_time(&self, suite: &Suite) -> Duration {
        if self.background {
            COMPILE.processor
        } else {
            suite.total
        }
    }

    /// Returns its limits.
    pub fn bounds(&self) -> Bounds {
        match &self.task {
            Task::Compile => COMPILE,
            Task::Check(suite) => Bounds {
                memory: CHECK_MEMORY + CHECK_MEMORIES * suite.memory as u64,
                processor: COMPILE.processor + self.suite_time(suite),
                time: COMPILE.time + self.suite_time(suite),
                starved: COMPILE.starved + suite.total,
                output: CHECK_OUTPUT,
            },
        }
    }
}

/// Cleans and truncates foreign text, for one line of a message.
pub fn clean(text: &str, most: usize) -> String {
    let mut short: String = text
        .chars()
        .take(most)
        .map(|c| {
            if c.is_control() || is_format(c) {
                ' '
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}

/// Returns whether a character changes how others are shown, such as the direction of text.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
