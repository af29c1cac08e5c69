//! What is asked of a keeper, one packet of JSON each way.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest packet in bytes.
pub const MAX_PACKET: usize = 16 << 10;
/// How long an upgrade may take, all told.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Have another process continue, of another program perhaps.
    Upgrade {
        /// The program's absolute path; None if it is the same path as before, whatever is there
        /// now.
        program: Option<PathBuf>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Another process serves.
    Upgraded(Upgraded),
    /// It does not, and why.
    Refused {
        /// In one line.
        reason: String,
    },
}

/// What came of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The process that serves.
    pub process: u32,
    /// The version of its program.
    pub version: String,
    /// The version of the program before.
    pub before: String,
    /// From the request to end until the next process was ready.
    pub took_us: u64,
    /// Whether the process before has handed its device over. If not, a VMM that was attached
    /// is cut off.
    pub handed_over: bool,
    /// Whether the next process was started, and rehearsed, before the one before was told to
    /// end.
    pub rehearsed: bool,
}
