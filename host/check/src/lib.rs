//! Checking a device component against the conformance suite, before a guest
//! sees it.
//!
//! The component is composed with the testbed and the runner, as in
//! `just guest-tests`, and every requirement runs on an instance of its
//! own: a device that traps or never ends misses one requirement, not all.

mod error;
mod program;

use std::time::{Duration, Instant};

pub use error::CheckError;
pub use manatee_conformance::suite::Requirement;
use manatee_conformance::suite::requirements;

use manatee::component::Component;
use program::Program;

/// Bounds of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuiteLimits {
    /// The longest that one requirement may take.
    pub requirement: Duration,
    /// The longest that all may take; the remaining ones count as missed.
    pub total: Duration,
    /// The limit of the device's linear memory, in bytes; at least 64 MiB, which the
    /// tests themselves may need.
    pub memory: usize,
}

impl Default for SuiteLimits {
    /// Allows five seconds a requirement, a minute in all, 64 MiB.
    fn default() -> Self {
        Self {
            requirement: Duration::from_secs(5),
            total: Duration::from_secs(60),
            memory: 64 << 20,
        }
    }
}

/// The result of a requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// Its source.
    pub source: &'static str,
    /// What was expected and what was found, if it was missed.
    pub missed: Option<String>,
}

/// Returns the requirements whose name contains any of these; all if the list is
/// empty.
///
/// # Errors
///
/// [`CheckError::Unknown`] if no requirement has one of the names.
pub fn select(names: &[String]) -> Result<Vec<&'static Requirement>, CheckError> {
    for name in names {
        if !requirements().any(|requirement| requirement.name.contains(name)) {
            return Err(CheckError::Unknown(name.clone()));
        }
    }
    let asked = |requirement: &&Requirement| {
        names.is_empty() || names.iter().any(|name| requirement.name.contains(name))
    };
    Ok(requirements().filter(asked).collect())
}

/// Runs requirements on a device component, and reports each result to `each`;
/// `name` is for messages. Returns whether all are met.
///
/// # Errors
///
/// [`CheckError`] if none can be run.
pub fn check(
    component: &[u8],
    name: &str,
    requirements: &[&'static Requirement],
    limits: &SuiteLimits,
    mut each: impl FnMut(&Verdict),
) -> Result<bool, CheckError> {
    Component::from_bytes(component, name)?.describe()?;
    let begun = Instant::now();
    let program = Program::new(component, name)?;
    let mut met = true;
    for requirement in requirements {
        let left = limits.total.saturating_sub(begun.elapsed());
        let outcome = if left.is_zero() {
            Err(format!(
                "not run: the time limit of {:?} is over",
                limits.total
            ))
        } else {
            let time = left.min(limits.requirement);
            program.attempt(requirement.name, time, limits.memory)
        };
        met &= outcome.is_ok();
        each(&Verdict {
            name: requirement.name,
            source: requirement.source,
            missed: outcome.err(),
        });
    }
    Ok(met)
}

#[cfg(test)]
mod tests;
