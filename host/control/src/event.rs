//! The events that subscribers are notified of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::{LinkStatus, Swapped};

/// Something that happened to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A VMM attached.
    Attached,
    /// The VMM is gone, and the device is at power-on.
    Detached,
    /// The component was replaced.
    Swapped(Swapped),
    /// The previous component runs again.
    RolledBack(Swapped),
    /// An instance of the component failed.
    Crashed(Crash),
    /// A fresh instance continued.
    Recovered(Recovery),
    /// The guest's link changed.
    Link(LinkStatus),
    /// The device is down until the VMM resets it.
    Down(Reason),
}

/// An instance failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Crash {
    /// Failures so far.
    pub failures: u64,
    /// Why.
    pub reason: String,
}

/// A fresh instance continued after a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recovery {
    /// Why the previous instance failed.
    pub reason: String,
    /// From the failure until a fresh instance had processed every queue, in microseconds.
    pub took_us: u64,
    /// Packets from the guest whose fate is unknown.
    pub lost_transmits: u64,
    /// Packets to the guest that were lost.
    pub lost_receives: u64,
    /// Work queue entries that are skipped from now on, since two instances failed on each.
    pub skipped: u64,
    /// Whether the driver was asked to reset the device.
    pub asked_for_reset: bool,
}

/// The reason for an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// The reason, for people.
    pub reason: String,
}

/// The names of events.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// [`Event::Attached`].
    Attached,
    /// [`Event::Detached`].
    Detached,
    /// [`Event::Swapped`].
    Swapped,
    /// [`Event::RolledBack`].
    RolledBack,
    /// [`Event::Crashed`].
    Crashed,
    /// [`Event::Recovered`].
    Recovered,
    /// [`Event::Link`].
    Link,
    /// [`Event::Down`].
    Down,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Attached,
        Self::Detached,
        Self::Swapped,
        Self::RolledBack,
        Self::Crashed,
        Self::Recovered,
        Self::Link,
        Self::Down,
    ];

    /// Returns its name, as in messages.
    pub const fn name(self) -> &'static str {
        self.told().0
    }

    /// Returns its description, for people.
    pub const fn meaning(self) -> &'static str {
        self.told().1
    }

    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Attached => ("attached", "A virtual machine attached"),
            Self::Detached => ("detached", "The virtual machine detached"),
            Self::Swapped => ("swapped", "The component was replaced"),
            Self::RolledBack => ("rolled_back", "The previous component runs again"),
            Self::Crashed => ("crashed", "An instance of the component failed"),
            Self::Recovered => ("recovered", "A fresh instance continued"),
            Self::Link => ("link", "The guest's link changed"),
            Self::Down => (
                "down",
                "The device is down until the virtual machine resets it",
            ),
        }
    }

    /// Returns the kind with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Event {
    /// Returns its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Attached => EventKind::Attached,
            Self::Detached => EventKind::Detached,
            Self::Swapped(_) => EventKind::Swapped,
            Self::RolledBack(_) => EventKind::RolledBack,
            Self::Crashed(_) => EventKind::Crashed,
            Self::Recovered(_) => EventKind::Recovered,
            Self::Link(_) => EventKind::Link,
            Self::Down(_) => EventKind::Down,
        }
    }
}

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stamped {
    /// Events of the process so far, this one included. A subscription to some kinds of events sees
    /// gaps in these numbers; events that were lost are reported by `lost`.
    pub number: u64,
    /// When it happened: milliseconds since 1970, in UTC.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_in_messages() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::json!(kind), kind.name());
            assert_eq!(EventKind::find(kind.name()), Some(kind));
        }
        assert_eq!(EventKind::find("Attached"), None);
    }
}
