//! The methods that a client may call, with their results.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::EventKind;
pub use crate::report::{LinkStatus, RateStatus, Swapped, UpDown};

/// A method with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Call {
    /// Agrees on a version, and describes the server.
    Hello(Hello),
    /// The live tree, or part of it.
    Inspect(Inspect),
    /// The device's counters. Never waits for the device.
    Counters(Counters),
    /// Replaces the device's component.
    Swap(SwapRequest),
    /// Returns to the previous component.
    Rollback(Rollback),
    /// Shows or sets a port's link.
    Link(Link),
    /// Shows or sets a port's maximum transmit rate.
    Rate(Rate),
    /// Shows or changes what is logged.
    Log(Log),
    /// Captures the packets of a port.
    Capture(Capture),
    /// Ends a capture.
    EndCapture(EndCapture),
    /// Subscribes to events.
    Subscribe(Subscribe),
    /// Ends a subscription.
    Unsubscribe(Unsubscribe),
    /// Tries to escape from the jail by a named method. Only test builds have it.
    #[cfg(feature = "escape")]
    #[schemars(skip)]
    Escape(Escape),
}

impl Call {
    /// The names of all methods that a release has.
    pub const METHODS: [&str; 12] = [
        "hello",
        "inspect",
        "counters",
        "swap",
        "rollback",
        "link",
        "rate",
        "log",
        "capture",
        "end_capture",
        "subscribe",
        "unsubscribe",
    ];

    /// Returns whether there is a method with this name.
    pub fn is_method(name: &str) -> bool {
        Self::METHODS.contains(&name) || cfg!(feature = "escape") && name == "escape"
    }
}

/// [`Call::Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The version that the client speaks; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
}

/// The description of the server: the result of [`Call::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Greeting {
    /// The version of the protocol.
    pub protocol: u32,
    /// The version of the program.
    pub version: String,
    /// The methods that the server has.
    pub methods: Vec<String>,
    /// The events that a client can subscribe to.
    pub events: Vec<EventKind>,
    /// The limits for clients.
    pub limits: Limits,
}

/// The limits for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// The longest request, without its line feed.
    pub request_bytes: u64,
    /// The most clients at a time.
    pub clients: u64,
    /// The most subscriptions of all clients.
    pub subscriptions: u64,
    /// The most events that wait for a subscriber.
    pub queued_events: u64,
    /// Requests of all clients per second that are answered without delay in the long run.
    pub requests_per_second: u64,
}

/// [`Call::Inspect`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Which part: names joined by `/`, with `*` for any one name and `**` for any number of them.
    /// Everything if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// The live tree, or the requested part of it: the result of [`Call::Inspect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Tree(pub serde_json::Map<String, Value>);

/// [`Call::Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counters {}

/// The device's counters: the result of [`Call::Counters`]. They count from when the process
/// began to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// How long the device has been served, in milliseconds.
    pub uptime_ms: u64,
    /// Whether a VMM is attached.
    pub attached: bool,
    /// `running`, `recovering` or `down`.
    pub state: String,
    /// The version of the component that runs.
    pub component_version: String,
    /// The SHA-256 of the component that runs.
    pub component_sha256: String,
    /// Replacements of the component, rollbacks included.
    pub swaps: u64,
    /// The rollbacks among them.
    pub rollbacks: u64,
    /// Instances of the component that failed.
    pub failures: u64,
    /// Failures after which a fresh instance continued.
    pub recoveries: u64,
    /// Resets that started a fresh instance because the previous one had failed.
    pub restarts: u64,
    /// How long the guest had no device in the last replacement, in microseconds.
    pub last_pause_us: u64,
    /// The longest of these pauses, in microseconds.
    pub longest_pause_us: u64,
    /// Calls into the component.
    pub calls: u64,
    /// Calls that exceeded their deadline, which ended the instance.
    pub deadlines_missed: u64,
    /// Interrupts that the device raised.
    pub interrupts_raised: u64,
    /// Log lines of the component that were dropped, because there were too many.
    pub log_lines_dropped: u64,
    /// The ports, in order.
    pub ports: Vec<PortCounts>,
}

/// The counters of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortCounts {
    /// Its number.
    pub port: u32,
    /// Its endpoint, such as `tap=tap0`.
    pub endpoint: String,
    /// The link as the guest sees it.
    pub link: UpDown,
    /// Receive buffers that the guest has posted.
    pub posted_buffers: u64,
    /// Packets from the guest.
    pub transmit: TxCounts,
    /// Packets to the guest.
    pub receive: RxCounts,
    /// Packets that the port's policy refused.
    pub refused: RefusedCounts,
    /// The maximum transmit rate in Mbit/s; null if there is none.
    pub rate_mbps: Option<u32>,
}

/// Packets that a port's policy refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedCounts {
    /// Sent from an address that is not the port's (`spoof-check=on`).
    pub source: u64,
    /// Sent with another VLAN's tag, or without one (`vlans=`).
    pub sent_vlan: u64,
    /// Received for another address (unless `promiscuous=on`).
    pub destination: u64,
    /// Received with another VLAN's tag, or without one (`vlans=`).
    pub received_vlan: u64,
}

/// Packets from a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TxCounts {
    /// Packets that were sent.
    pub packets: u64,
    /// Their bytes, as passed by the guest.
    pub bytes: u64,
    /// Dropped: the other side accepts no more at the moment.
    pub dropped_busy: u64,
    /// Dropped: the other side is down or gone.
    pub dropped_down: u64,
    /// Dropped: the other side failed in another way.
    pub dropped_error: u64,
    /// Refused: part of the packet is not in guest memory.
    pub memory_faults: u64,
    /// Refused: longer than the port accepts.
    pub too_long: u64,
    /// Refused: the requested offload does not fit the packet's headers.
    pub bad_headers: u64,
}

/// Packets to a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RxCounts {
    /// Packets that were written to buffers, truncated ones too.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets that did not fit their buffer.
    pub truncated: u64,
    /// Buffers that were not in guest memory.
    pub memory_faults: u64,
    /// Packets that were read from the other side and found no posted buffer.
    pub dropped: u64,
    /// Failed reads from the other side.
    pub errors: u64,
}

/// The parameters of [`Call::Swap`]. The component's file is passed with the request as a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapRequest {
    /// The name of the new component in messages.
    pub name: String,
    /// Whether the conformance suite is run on it first.
    #[serde(default = "yes")]
    pub check: bool,
    /// The probation in milliseconds: if the new component fails within it, the old one continues.
    #[serde(default = "ten_seconds")]
    pub probation_ms: u64,
    /// Whether to report stages meanwhile, by `progress` notifications.
    #[serde(default)]
    pub progress: bool,
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> u64 {
    10_000
}

/// [`Call::Rollback`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {}

/// A stage of a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The candidate is being compiled.
    Compiling,
    /// The conformance suite is running on it.
    Checking,
    /// It is taking over.
    Swapping,
}

/// [`Call::Link`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The number of the port, from 0.
    pub port: u32,
    /// The new setting; absent to only show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<LinkSetting>,
}

/// A setting of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkSetting {
    /// Up, whatever the state of its interface.
    Up,
    /// Down, whatever the state of its interface.
    Down,
    /// The state of its interface.
    Auto,
}

/// [`Call::Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The number of the port, from 0.
    pub port: u32,
    /// The new setting; absent to only show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<RateSetting>,
}

/// A setting of a port's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateSetting {
    /// A limit in Mbit/s, 1 to 1,000,000.
    Mbps(u32),
    /// No limit.
    Off,
}

/// [`Call::Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The new filter; absent to only show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// The current filter: the result of [`Call::Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLevel {
    /// A level, or parts of the program with a level each.
    pub level: String,
}

/// [`Call::Capture`]. The answer passes the end of a pipe from which the packets are read, as
/// pcapng, until the capture ends. Closing the pipe ends it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The number of the port, from 0.
    pub port: u32,
    /// Bytes of each packet that are kept, 14 to 262,144.
    #[serde(default = "whole_packets")]
    pub snaplen: u32,
    /// Bytes that may wait to be read, 1 to 64 MiB. Packets that do not fit are dropped from the
    /// capture, and counted.
    #[serde(default = "four_mebibytes")]
    pub ring_bytes: u64,
}

impl Capture {
    /// The valid values of [`Capture::snaplen`].
    pub const SNAPLEN: std::ops::RangeInclusive<u32> = 14..=262_144;
    /// The valid values of [`Capture::ring_bytes`].
    pub const RING_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;
}

fn whole_packets() -> u32 {
    *Capture::SNAPLEN.end()
}

fn four_mebibytes() -> u64 {
    4 << 20
}

/// A capture that has begun: the result of [`Call::Capture`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capturing {
    /// Its number.
    pub capture: u64,
}

/// [`Call::EndCapture`]. Packets that were captured can still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndCapture {
    /// The number of the capture.
    pub capture: u64,
}

/// The counters of a capture: the result of [`Call::EndCapture`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Captured {
    /// Packets that were captured.
    pub packets: u64,
    /// Packets that were dropped from it, because earlier ones were not read in time.
    pub dropped: u64,
}

/// [`Call::Subscribe`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Which events; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<EventKind>>,
}

/// The result of [`Call::Subscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribed {
    /// The number of the subscription in notifications. It ends with the connection.
    pub subscription: u64,
}

/// [`Call::Unsubscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unsubscribe {
    /// The subscription, which must be of this connection.
    pub subscription: u64,
}

/// The result of [`Call::Unsubscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unsubscribed {}

/// `Call::Escape`, which only test builds have.
#[cfg(feature = "escape")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escape {
    /// The name of the method to try.
    pub way: String,
}
