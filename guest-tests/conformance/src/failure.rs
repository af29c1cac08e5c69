//! The failure of a requirement that the device does not meet.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

/// The outcome of a requirement, and of whatever the driver does for it.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A requirement was not met: what was expected and what was found, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
}

impl Failure {
    /// Creates a failure with a text of its own.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// Prefixes what was being done when it happened.
    #[must_use]
    pub fn during(self, what: impl fmt::Display) -> Self {
        Self::new(format!("{what}: {}", self.message))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Failure {}

/// Checks that two values are equal.
///
/// # Errors
///
/// A failure with `what` and both values if they are not.
pub fn check_eq<T: PartialEq + fmt::Debug>(
    what: impl fmt::Display,
    found: T,
    expected: T,
) -> Outcome {
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{what}\n  expected: {expected:?}\n     found: {found:?}"
    )))
}

/// Checks a condition.
///
/// # Errors
///
/// A failure with the text if it does not hold.
pub fn check(holds: bool, otherwise: impl fmt::Display) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Failure::new(otherwise.to_string()))
    }
}

/// Adds to a failure what was being done.
pub trait During {
    /// Prefixes a failure with a text.
    #[must_use]
    fn during(self, what: impl fmt::Display) -> Self;
}

impl<T> During for Outcome<T> {
    fn during(self, what: impl fmt::Display) -> Self {
        self.map_err(|failure| failure.during(what))
    }
}
