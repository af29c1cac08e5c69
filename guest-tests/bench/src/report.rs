//! The results of a run: a table for people, JSON for tools.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sample::Measured;

/// A bound of a value.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    /// Returns whether a value meets the bound.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    /// Returns how many times better than required a value is; below 1 it misses.
    pub fn margin(self, value: f64) -> f64 {
        match self {
            Self::AtLeast(bound) => value / bound,
            // A value of 0 is the best possible, and may be the bound.
            Self::AtMost(_) if value == 0.0 => 1.0,
            Self::AtMost(bound) => bound / value,
        }
    }
}

/// A value that is compared with a bound.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Name of the value, such as "wasm/native".
    pub what: String,
    /// The value.
    pub value: f64,
    /// Its bound; None if it is only reported.
    pub bound: Option<Bound>,
}

impl Verdict {
    /// Returns whether it meets its bound, if it has one.
    pub fn met(&self) -> Option<bool> {
        let bound = self.bound?;
        Some(bound.is_met(self.value))
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The row that it belongs to.
    pub row: &'static str,
    /// What was measured.
    pub what: String,
    /// Unit of all measured values.
    pub unit: &'static str,
    /// Each contender's samples.
    pub measured: Vec<Measured>,
    /// The values that follow from the samples.
    pub verdict: Option<Verdict>,
}

impl Figure {
    /// Creates a figure that is only reported.
    pub fn reported(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        measured: Vec<Measured>,
    ) -> Self {
        Self {
            row,
            what: what.into(),
            unit,
            measured,
            verdict: None,
        }
    }

    /// Adds a value with a bound.
    pub fn must(mut self, what: &str, value: f64, bound: Bound) -> Self {
        self.verdict = Some(Verdict {
            what: what.to_owned(),
            value,
            bound: Some(bound),
        });
        self
    }

    /// Adds a value that is only reported.
    pub fn says(mut self, what: &str, value: f64) -> Self {
        self.verdict = Some(Verdict {
            what: what.to_owned(),
            value,
            bound: None,
        });
        self
    }

    /// Returns its lines in the table.
    pub fn lines(&self) -> String {
        let mut text = format!("{:<13}{}\n", self.row, self.what);
        for Measured {
            name,
            median,
            quartiles: (low, high),
            ..
        } in &self.measured
        {
            let _ = write!(
                text,
                "{:<15}{name:<28}{:>11} {}",
                "",
                number(*median),
                self.unit
            );
            if low < high {
                let _ = write!(text, "  ({} to {})", number(*low), number(*high));
            }
            text.push('\n');
        }
        if let Some(verdict) = &self.verdict {
            let _ = write!(
                text,
                "{:<15}{:<28}{:>11}",
                "",
                verdict.what,
                number(verdict.value)
            );
            let (word, bound) = match verdict.bound {
                None => ("", String::new()),
                Some(Bound::AtLeast(bound)) => ("at least", number(bound)),
                Some(Bound::AtMost(bound)) => ("at most", number(bound)),
            };
            if let Some(met) = verdict.met() {
                let met = if met { "met" } else { "MISSED" };
                let _ = write!(text, "  required: {word} {bound}: {met}");
            }
            text.push('\n');
        }
        text
    }
}

/// Returns a number with three digits, or a whole number.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The machine that a run was taken on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// The processor, by its own name.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// The kernel's version.
    pub kernel: String,
}

impl Host {
    /// Describes this machine.
    ///
    /// # Errors
    ///
    /// If the system does not report it.
    pub fn this() -> Result<Self> {
        let field = |file: &str, name: &str| -> Result<String> {
            let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line
                .and_then(|line| line.split_once(':'))
                .map(|(_, v)| v.trim());
            Ok(value.unwrap_or("unknown").to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal")?;
        let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name")?,
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory_gib: kibibytes >> 20,
            kernel: nix::sys::utsname::uname()?
                .release()
                .to_string_lossy()
                .into_owned(),
        })
    }
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub host: Host,
    /// Seconds that it took.
    pub seconds: f64,
    /// Its figures.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Writes it as JSON.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Returns a line for each bound that was missed.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.figures.iter().filter_map(|figure| {
            let verdict = figure.verdict.as_ref()?;
            (verdict.met() == Some(false)).then(|| {
                let Figure { row, what, .. } = figure;
                format!("{row}: {what}: {} {}", verdict.what, number(verdict.value))
            })
        });
        missed.collect()
    }
}
