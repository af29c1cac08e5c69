//! Types that are part of both answers and events.

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
    /// The longest time that the guest had no device, in microseconds.
    pub pause_us: u64,
    /// The size of the state that was moved.
    pub state_bytes: u64,
    /// Whether the previous component runs again: on demand, or because the new one failed in its
    /// probation.
    pub rollback: bool,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpDown {
    /// There is a link.
    #[default]
    Up,
    /// There is no link.
    Down,
}

/// A port's maximum transmit rate: the result of `rate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateStatus {
    /// The number of the port.
    pub port: u32,
    /// The lower of the two limits below, in Mbit/s; null if there is neither.
    pub rate_mbps: Option<u32>,
    /// The operator's limit.
    pub operator_mbps: Option<u32>,
    /// The guest's limit.
    pub guest_mbps: Option<u32>,
}

/// The state of a port's link: the result of `link`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// The number of the port.
    pub port: u32,
    /// The link as the guest sees it.
    pub state: UpDown,
    /// The operator's setting; null if the link follows its interface.
    pub forced: Option<UpDown>,
    /// The state of its interface: `up`, `down` or `gone`; null if it has none.
    pub interface: Option<String>,
    /// The interface's MTU in bytes; null if it has none.
    pub interface_mtu: Option<u32>,
}
