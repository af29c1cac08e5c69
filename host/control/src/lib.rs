//! The control socket: questions to a running `manatee serve`.
//!
//! A request is one line of JSON and gets one line of JSON back; a connection
//! carries any number of them, one after the other:
//!
//! ```text
//! {"inspect": {"pattern": "ports/0/*"}}
//! {"ok": {"ports": {"0": {...}}}}
//! {"inspect": {"pattern": "["}}
//! {"error": {"code": "failed", "message": "..."}}
//! {"swap": {"name": "/opt/new.wasm", "check": true, "probation_ms": 10000, "progress": true}}
//! {"progress": "compiling"}
//! {"ok": {"from": "0.1.0", "to": "0.2.0", "pause_us": 210, ...}}
//! "rollback"
//! {"ok": {"from": "0.2.0", "to": "0.1.0", ...}}
//! {"link": {"port": 0, "set": "down"}}
//! {"ok": {"port": 0, "state": "down", "forced": "down", ...}}
//! {"log": {"level": "debug"}}
//! {"ok": {"level": "debug"}}
//! ```
//!
//! The component for a swap comes with its request as a descriptor (`SCM_RIGHTS`): the
//! process that serves has no paths. No other request takes a descriptor.

mod client;
mod clients;
mod connection;
mod refusal;
mod select;
mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use client::{Client, ClientError};
pub use refusal::{Code, Refusal};
pub use select::{SelectError, select};
pub use server::{Commands, Server};

/// The longest request in bytes, its line feed not counted.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The live tree, or part of it.
    Inspect(Inspect),
    /// Replaces the device's component.
    Swap(Swap),
    /// Goes back to the component before.
    Rollback,
    /// Shows or sets a port's link.
    Link(Link),
    /// Shows or changes what is logged.
    Log(Log),
    /// Tries to get out of the jail in the way of this name. Only test builds know it.
    #[cfg(feature = "escape")]
    Escape(String),
}

/// [`Request::Inspect`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Inspect {
    /// Which part; everything if it is missing. See [`select`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// [`Request::Swap`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Swap {
    /// What messages call the new component, whose file comes along as a descriptor.
    pub name: String,
    /// Whether the conformance suite is run on it first.
    pub check: bool,
    /// If it fails within this time, the old one goes on; in milliseconds.
    #[serde(alias = "probation-ms")]
    pub probation_ms: u64,
    /// Whether to tell what is being done meanwhile, by [`Response::Progress`].
    #[serde(default)]
    pub progress: bool,
}

/// [`Request::Link`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Link {
    /// The number of the port, from 0.
    pub port: u32,
    /// What to set it to; it is only shown if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<LinkSetting>,
}

/// What a port's link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkSetting {
    /// Up, whatever its interface is.
    Up,
    /// Down, whatever its interface is.
    Down,
    /// As its interface.
    Auto,
}

/// [`Request::Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Log {
    /// What to log from now on; it is only shown if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// What is being done for a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The candidate is compiled.
    Compiling,
    /// The conformance suite is run on it.
    Checking,
    /// It takes over.
    Swapping,
}

/// What a client gets back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The answer.
    Ok(Value),
    /// Why there is none.
    Error(Refusal),
    /// What is being done meanwhile; the answer is still to come.
    Progress(Stage),
}
