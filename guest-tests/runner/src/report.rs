//! What is printed, in the manner of Rust's own test runner.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use manatee_conformance::suite::Requirement;
use serde_json::{Value, json};

use crate::arguments::Format;

/// The failure of a requirement, if it failed.
pub type Outcome = Result<(), String>;

/// A run that is being reported.
#[derive(Debug)]
pub struct Report {
    format: Format,
    passed: usize,
    failed: Vec<(&'static str, String)>,
    filtered_out: usize,
}

/// Returns the list of requirements.
pub fn list(requirements: &[&Requirement], format: Format) -> String {
    let mut text = String::new();
    for requirement in requirements {
        text += &match format {
            Format::Pretty => format!("{}: test\n", requirement.name),
            Format::Json => line(&json!({
                "type": "requirement",
                "name": requirement.name,
                "source": requirement.source,
                "ports": requirement.ports,
            })),
        };
    }
    if format == Format::Pretty {
        text += &format!("\n{} tests, 0 benchmarks\n", requirements.len());
    }
    text
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

impl Report {
    /// Begins a run. Returns its report, and what to print.
    pub fn begin(format: Format, count: usize, filtered_out: usize) -> (Self, String) {
        let text = match format {
            Format::Pretty => format!("\nrunning {count} test{}\n", plural(count)),
            Format::Json => line(&json!({
                "type": "suite", "event": "started", "test_count": count,
            })),
        };
        let report = Self {
            format,
            passed: 0,
            failed: Vec::new(),
            filtered_out,
        };
        (report, text)
    }

    /// Notes that a requirement is about to run. If the device traps, this is the last
    /// that is printed.
    pub fn attempt(&self, requirement: &Requirement) -> String {
        let name = requirement.name;
        match self.format {
            Format::Pretty => format!("test {name} ... "),
            Format::Json => line(&json!({ "type": "test", "event": "started", "name": name })),
        }
    }

    /// Notes the outcome of a requirement.
    pub fn result(&mut self, requirement: &'static Requirement, outcome: Outcome) -> String {
        let name = requirement.name;
        let failure = outcome.err();
        let text = match (self.format, &failure) {
            (Format::Pretty, None) => "ok\n".to_string(),
            (Format::Pretty, Some(_)) => "FAILED\n".to_string(),
            (Format::Json, None) => line(&json!({ "type": "test", "name": name, "event": "ok" })),
            (Format::Json, Some(failure)) => line(&json!({
                "type": "test", "name": name, "event": "failed",
                "stdout": failure, "source": requirement.source,
            })),
        };
        match failure {
            None => self.passed += 1,
            Some(failure) => {
                let text = format!("{failure}\n  required by: {}", requirement.source);
                self.failed.push((name, text));
            }
        }
        text
    }

    /// Returns whether every requirement so far was met.
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty()
    }

    /// Ends a run.
    pub fn summary(&self) -> String {
        let (passed, failed) = (self.passed, self.failed.len());
        let filtered_out = self.filtered_out;
        if self.format == Format::Json {
            return line(&json!({
                "type": "suite", "event": if self.is_ok() { "ok" } else { "failed" },
                "passed": passed, "failed": failed, "ignored": 0, "measured": 0,
                "filtered_out": filtered_out,
            }));
        }
        let mut text = String::new();
        if !self.is_ok() {
            text += "\nfailures:\n";
            for (name, failure) in &self.failed {
                text += &format!("\n---- {name} ----\n{failure}\n");
            }
            text += "\nfailures:\n";
            for (name, _) in &self.failed {
                text += &format!("    {name}\n");
            }
        }
        let word = if self.is_ok() { "ok" } else { "FAILED" };
        text + &format!(
            "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
             {filtered_out} filtered out\n\n"
        )
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use manatee_conformance::suite::requirements;

    use super::*;

    fn run(format: Format, outcomes: &[Outcome]) -> String {
        let (mut report, mut text) = Report::begin(format, outcomes.len(), 3);
        let requirement = requirements().next().unwrap();
        for outcome in outcomes {
            text += &report.attempt(requirement);
            text += &report.result(requirement, outcome.clone());
        }
        text + &report.summary()
    }

    #[test]
    fn people_read_what_libtest_prints() {
        let text = run(Format::Pretty, &[Ok(())]);
        let name = requirements().next().unwrap().name;
        assert_eq!(
            text,
            format!(
                "\nrunning 1 test\ntest {name} ... ok\n\ntest result: ok. 1 passed; 0 failed; \
                 0 ignored; 0 measured; 3 filtered out\n\n"
            )
        );
    }

    #[test]
    fn failures_say_what_and_why() {
        let text = run(Format::Pretty, &[Ok(()), Err("expected 1, found 2".into())]);
        assert!(text.contains("... FAILED\n"));
        assert!(text.contains("----\nexpected 1, found 2\n  required by: "));
        assert!(text.contains("test result: FAILED. 1 passed; 1 failed;"));
    }

    #[test]
    fn machines_read_one_object_a_line() {
        let text = run(Format::Json, &[Ok(()), Err("\"quoted\"\n".into())]);
        let values: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let values = values.unwrap();
        assert_eq!(values.len(), 6);
        assert_eq!(values[0]["test_count"], 2);
        assert_eq!(values[4]["stdout"], "\"quoted\"\n");
        assert_eq!(values[5]["event"], "failed");
    }
}
