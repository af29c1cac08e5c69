//! What a client may ask for, and what it gets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::EventKind;
pub use crate::report::{LinkStatus, RateStatus, Swapped, UpDown};

/// A method with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Call {
    /// Agrees on a version, and says what the server is.
    Hello(Hello),
    /// The live tree, or part of it.
    Inspect(Inspect),
    /// What the device did so far, in numbers. Never waits for the device.
    Counters(Counters),
    /// Replaces the device's component.
    Swap(Swap),
    /// Goes back to the component before.
    Rollback(Rollback),
    /// Shows or sets a port's link.
    Link(Link),
    /// Shows or sets how fast a port sends at the most.
    Rate(Rate),
    /// Shows or changes what is logged.
    Log(Log),
    /// Captures the packets of a port.
    Capture(Capture),
    /// Ends a capture.
    EndCapture(EndCapture),
    /// Asks to be told of events.
    Subscribe(Subscribe),
    /// Ends a subscription.
    Unsubscribe(Unsubscribe),
    /// Tries to get out of the jail in the way of this name. Only test builds know it.
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

    /// Returns whether there is a method of this name.
    pub fn is_method(name: &str) -> bool {
        Self::METHODS.contains(&name) || cfg!(feature = "escape") && name == "escape"
    }
}

/// [`Call::Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The version that the client speaks; any if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
}

/// What the server is: the result of [`Call::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Greeting {
    /// The version of the protocol that it speaks.
    pub protocol: u32,
    /// The version of the program.
    pub version: String,
    /// The methods that it has.
    pub methods: Vec<String>,
    /// The events that one can subscribe to.
    pub events: Vec<EventKind>,
    /// What bounds clients.
    pub limits: Limits,
}

/// What bounds clients.
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
    /// Requests of all clients a second that are answered without delay in the long run.
    pub requests_per_second: u64,
}

/// [`Call::Inspect`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Which part: names joined by `/`, with `*` for any one of them and `**` for any number.
    /// Everything if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// The live tree, or the part of it that was asked for: the result of [`Call::Inspect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Tree(pub serde_json::Map<String, Value>);

/// [`Call::Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counters {}

/// What the device did so far: the result of [`Call::Counters`]. All count from when the
/// process began to serve.
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
    /// Replacements of the component, those that went back included.
    pub swaps: u64,
    /// Those of them that went back.
    pub rollbacks: u64,
    /// Instances of the component that failed.
    pub failures: u64,
    /// Failures after which a fresh instance continued.
    pub recoveries: u64,
    /// Instances that restarted, at power-on.
    pub restarts: u64,
    /// How long the guest had no device in the last replacement, in microseconds.
    pub last_pause_us: u64,
    /// The longest of these pauses, in microseconds.
    pub longest_pause_us: u64,
    /// Calls into the component.
    pub calls: u64,
    /// Calls that took longer than they may, and ended the instance.
    pub deadlines_missed: u64,
    /// Interrupts that the device raised.
    pub interrupts_raised: u64,
    /// Lines of the component's that were not logged, because there were too many.
    pub log_lines_dropped: u64,
    /// The ports, in order.
    pub ports: Vec<PortCounts>,
}

/// What a port did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortCounts {
    /// Its number.
    pub port: u32,
    /// What it is connected to, such as `tap=tap0`.
    pub endpoint: String,
    /// As the guest sees it.
    pub link: UpDown,
    /// Buffers that the guest has posted for packets.
    pub posted_buffers: u64,
    /// From the guest.
    pub transmit: TxCounts,
    /// To the guest.
    pub receive: RxCounts,
    /// Neither sent nor received, as the port's policy says.
    pub refused: RefusedCounts,
    /// How fast it sends at the most, in Mbit/s; null if it is not limited.
    pub rate_mbps: Option<u32>,
}

/// Packets that a port's policy refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedCounts {
    /// Sent from another address than the port's (`spoof-check=on`).
    pub source: u64,
    /// Sent with the tag of another VLAN, or without one (`vlans=`).
    pub sent_vlan: u64,
    /// Addressed to somebody else (unless `promiscuous=on`).
    pub destination: u64,
    /// Arrived with the tag of another VLAN, or without one (`vlans=`).
    pub received_vlan: u64,
}

/// Packets from a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TxCounts {
    /// Packets that were sent.
    pub packets: u64,
    /// Their bytes, as the guest handed them over.
    pub bytes: u64,
    /// Dropped: the other side takes no more at the moment.
    pub dropped_busy: u64,
    /// Dropped: the other side is down or gone.
    pub dropped_down: u64,
    /// Dropped: the other side failed in another way.
    pub dropped_error: u64,
    /// Refused: part of the packet is not in guest memory.
    pub memory_faults: u64,
    /// Refused: longer than the port takes.
    pub too_long: u64,
    /// Refused: what was asked for does not fit the packet's headers.
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
    /// Packets that were read from the other side and found no room.
    pub dropped: u64,
    /// Failed reads from the other side.
    pub errors: u64,
}

/// [`Call::Swap`]. The component's file comes with the request as a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// What messages call the new component.
    pub name: String,
    /// Whether the conformance suite is run on it first.
    #[serde(default = "yes")]
    pub check: bool,
    /// If it fails within this time, the old one continues; in milliseconds.
    #[serde(default = "ten_seconds")]
    pub probation_ms: u64,
    /// Whether to tell what is being done meanwhile, by `progress` notifications.
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

/// What is being done for a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The candidate is compiled.
    Compiling,
    /// The conformance suite is run on it.
    Checking,
    /// It takes over.
    Swapping,
}

/// [`Call::Link`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The number of the port, from 0.
    pub port: u32,
    /// What to set it to; it is only shown if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<LinkSetting>,
}

/// What a port's link is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkSetting {
    /// Up, whatever its interface is.
    Up,
    /// Down, whatever its interface is.
    Down,
    /// As its interface.
    Auto,
}

/// [`Call::Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The number of the port, from 0.
    pub port: u32,
    /// What to set it to; it is only shown if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<RateSetting>,
}

/// What a port's rate is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateSetting {
    /// So many Mbit/s, 1 to 1,000,000.
    Mbps(u32),
    /// As fast as the guest sends.
    Off,
}

/// [`Call::Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// What to log from now on; it is only shown if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// What is logged: the result of [`Call::Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLevel {
    /// A level, or parts of the program with a level each.
    pub level: String,
}

/// [`Call::Capture`]. The answer brings the end of a pipe from which the packets are read, as
/// pcapng, until the capture ends. It ends also when that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The number of the port, from 0.
    pub port: u32,
    /// Bytes of a packet that are kept, 14 to 262,144.
    #[serde(default = "whole_packets")]
    pub snaplen: u32,
    /// Bytes that may wait to be read, 1 to 64 MiB. Packets that find no room are
    /// dropped from the capture, and counted.
    #[serde(default = "four_mebibytes")]
    pub ring_bytes: u64,
}

impl Capture {
    /// The bytes of a packet that may be kept.
    pub const SNAPLEN: std::ops::RangeInclusive<u32> = 14..=262_144;
    /// The bytes that may wait to be read.
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
    /// What it is called from now on.
    pub capture: u64,
}

/// [`Call::EndCapture`]. What was captured can still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndCapture {
    /// The capture.
    pub capture: u64,
}

/// What a capture came to: the result of [`Call::EndCapture`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Captured {
    /// Packets that were captured.
    pub packets: u64,
    /// Packets that were dropped from it, because those before were not read in time.
    pub dropped: u64,
}

/// [`Call::Subscribe`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Which events; all if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<EventKind>>,
}

/// The result of [`Call::Subscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribed {
    /// What notifications call the subscription. It ends with the connection.
    pub subscription: u64,
}

/// [`Call::Unsubscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unsubscribe {
    /// The subscription, one of this connection's.
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
    /// The name of the way.
    pub way: String,
}
