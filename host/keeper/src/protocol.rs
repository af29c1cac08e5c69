//! The requests to a keeper and its answers, one JSON packet each way.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest packet in bytes.
pub const MAX_PACKET: usize = 16 << 10;
/// How long an upgrade may take in total.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Replace the process, possibly by another program.
    Upgrade {
        /// The program's absolute path; None for the same path as before, whatever file is there
        /// now.
        program: Option<PathBuf>,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Another process serves now.
    Upgraded(Upgraded),
    /// The upgrade failed or was refused.
    Refused {
        /// Why, in one line.
        reason: String,
    },
}

/// The result of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The id of the process that serves.
    pub process: u32,
    /// The version of its program.
    pub version: String,
    /// The version of the previous program.
    pub before: String,
    /// Microseconds from the request to end until the successor was ready.
    pub took_us: u64,
    /// Whether the previous process handed its device over. If not, an attached VMM is
    /// disconnected.
    pub handed_over: bool,
    /// Whether the successor was started, and rehearsed, before the previous process was asked
    /// to end.
    pub rehearsed: bool,
}
