//! Why a component can't be checked.

use manatee::component::ComponentError;

/// Why a component can't be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is not a device.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// It can't be composed with the tests.
    #[error("{name} can't be composed with the tests: {error}")]
    Compose {
        /// Its path or name.
        name: String,
        /// What does not fit.
        error: String,
    },
    /// No requirement has the requested name.
    #[error("no requirement has {0} in its name; `--list` lists all")]
    Unknown(String),
    /// This machine can't run the tests.
    #[error("setting up the tests: {0}")]
    Runtime(String),
}
