//! What is told both in answers and in events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A replacement: the result of `swap` and `rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Swapped {
    /// Version of the component that ran.
    pub from: String,
    /// SHA-256 of the component that ran.
    pub from_sha256: String,
    /// Version of the component that runs now.
    pub to: String,
    /// SHA-256 of the component that runs now.
    pub to_sha256: String,
    /// The longest that the guest had no device, in microseconds.
    pub pause_us: u64,
    /// Size of the state that was moved.
    pub state_bytes: u64,
    /// Whether it went back to the component before: on demand, or because the new one failed
    /// in its probation.
    pub rollback: bool,
}

/// Whether there is a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpDown {
    /// There is.
    #[default]
    Up,
    /// There is none.
    Down,
}

/// How fast a port sends at the most: the result of `rate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateStatus {
    /// The number of the port.
    pub port: u32,
    /// The lower of what follows, in Mbit/s; null if there is neither.
    pub rate_mbps: Option<u32>,
    /// What an operator has limited it to.
    pub operator_mbps: Option<u32>,
    /// What the guest has limited it to.
    pub guest_mbps: Option<u32>,
}

/// How a port's link is: the result of `link`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// The number of the port.
    pub port: u32,
    /// As the guest sees it.
    pub state: UpDown,
    /// What an operator set it to; null if it is as its interface.
    pub forced: Option<UpDown>,
    /// How its interface is: `up`, `down` or `gone`; null if it has none.
    pub interface: Option<String>,
    /// The interface's MTU in bytes; null if it has none.
    pub interface_mtu: Option<u32>,
}
