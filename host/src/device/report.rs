//! Events of a device, for subscribers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::component::Digest;

/// Something that happened to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A VMM attached.
    Attached,
    /// The VMM is gone, and the device at power-on.
    Detached,
    /// The component was replaced, or the one before runs again ([`SwapReport::rollback`]).
    Swapped(SwapReport),
    /// An instance of the component failed.
    Crashed {
        /// Failures so far.
        failures: u64,
        /// Why, in one line.
        reason: String,
    },
    /// A fresh instance continued.
    Recovered(Recovery),
    /// The device is down until it is reset.
    Down {
        /// Why, in one line.
        reason: String,
    },
}

/// A replacement of the component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapReport {
    /// Version of the build that ran.
    pub from: String,
    /// SHA-256 of the component that ran.
    pub from_digest: Digest,
    /// Version of the build that runs now.
    pub to: String,
    /// SHA-256 of the component that runs now.
    pub to_digest: Digest,
    /// The longest that the guest had no device: while its state was taken for
    /// the rehearsal, or while the component was replaced.
    pub pause: Duration,
    /// Size of the state that was moved, in bytes.
    pub state_bytes: usize,
    /// Whether the previous component runs again: its successor failed in its probation, or on demand.
    pub rollback: bool,
}

impl SwapReport {
    /// Returns it as JSON, for `manatee inspect`.
    pub fn to_json(&self) -> Value {
        json!({
            "from": self.from,
            "from_sha256": self.from_digest.to_string(),
            "to": self.to,
            "to_sha256": self.to_digest.to_string(),
            "pause_us": self.pause.as_micros() as u64,
            "state_bytes": self.state_bytes,
            "rollback": self.rollback,
        })
    }

    pub(super) fn log(&self) {
        tracing::info!(
            from = self.from,
            from_sha256 = %self.from_digest,
            to = self.to,
            to_sha256 = %self.to_digest,
            pause_us = self.pause.as_micros() as u64,
            state_bytes = self.state_bytes,
            rollback = self.rollback,
            "the device's component was replaced"
        );
    }
}

/// A failure that was recovered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Why the previous instance failed, in one line.
    pub reason: String,
    /// From the failure until a fresh instance had processed every queue.
    pub took: Duration,
    /// Packets from the guest whose fate is unknown.
    pub lost_transmits: u64,
    /// Packets to the guest that were lost.
    pub lost_receives: u64,
    /// Work queue entries that are skipped, since two instances failed on each.
    pub skipped: usize,
    /// Whether the driver was asked to reset the device.
    pub asked_for_reset: bool,
}

impl Recovery {
    /// Returns it as JSON, for `manatee inspect`.
    pub fn to_json(&self) -> Value {
        json!({
            "reason": self.reason,
            "took_us": self.took.as_micros() as u64,
            "lost_transmits": self.lost_transmits,
            "lost_receives": self.lost_receives,
            "skipped": self.skipped,
            "asked_for_reset": self.asked_for_reset,
        })
    }
}
