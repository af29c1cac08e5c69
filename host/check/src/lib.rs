//! Checking a device component against the conformance suite, before a guest
//! sees it.
//!
//! The component is composed with the testbed and the runner, as in
//! `just guest-tests`, and every requirement is tried on an instance of its
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
    /// Longest that one requirement may take.
    pub requirement: Duration,
    /// Longest that all may take; those that are left then are not met.
    pub total: Duration,
    /// Most linear memory of the device, in bytes; at least 64 MiB, which the
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

/// A requirement that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// How it was missed, if it was: what was expected and what was found.
    pub missed: Option<String>,
}

/// Returns the requirements whose name contains any of these; every one if there are
/// none.
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

/// Tries requirements on a device component, and tells `each` as they end;
/// `name` is for messages. True if every one is met.
///
/// # Errors
///
/// [`CheckError`] if it can't be tried at all.
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
            Err(format!("not tried: {:?} are over", limits.total))
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
