//! The report for people: one line for each step, with its time.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Prints steps as they happen.
pub struct Report {
    begun: Instant,
}

impl Report {
    /// Starts the clock.
    pub fn begin(title: &str) -> Self {
        println!("{title}");
        Self {
            begun: Instant::now(),
        }
    }

    /// Runs a step that has a result besides its text for the report.
    pub fn step_with<T>(
        &self,
        name: &str,
        step: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        print!("  {name:<11} ");
        // Shown before the step begins, so that a slow one is known by name.
        let _ = io::stdout().flush();
        let begun = Instant::now();
        match step() {
            Ok((value, words)) => {
                println!("{words} ({})", seconds(begun.elapsed()));
                Ok(value)
            }
            Err(error) => {
                println!("FAILED ({})", seconds(begun.elapsed()));
                Err(error).with_context(|| format!("{name} failed"))
            }
        }
    }

    /// Runs a step, which returns its text for the report.
    pub fn step(&self, name: &str, step: impl FnOnce() -> Result<String>) -> Result<()> {
        self.step_with(name, || Ok(((), step()?)))
    }

    /// Returns the time since the beginning.
    pub fn total(&self) -> String {
        seconds(self.begun.elapsed())
    }
}

/// Prints the result of the program `name` as its last line.
pub fn conclude(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => {
            println!("{name}: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}\n{name}: failed");
            ExitCode::FAILURE
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
