//! Numbers of a device that anybody may read while somebody else has it.
//!
//! They are written by whoever has the device's lock, and by nobody else, so that an addition is
//! a load and a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::endpoint::{Counters, EndpointView, Policy, Steering};

/// A number with one writer at a time.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds to it.
    #[inline]
    pub fn add(&self, more: u64) {
        self.set(self.get() + more);
    }

    /// Sets it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns it.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The numbers of a device.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Interrupts that it raised.
    pub interrupts_raised: Gauge,
    /// Calls into its component.
    pub calls: Gauge,
    /// Calls that took longer than they may.
    pub deadlines_missed: Gauge,
    /// Lines that its component logged too many.
    pub log_lines_dropped: Gauge,
    /// Its ports.
    pub ports: Vec<Arc<PortGauges>>,
}

/// The numbers of a port, and what changes rarely or not at all of it.
pub struct PortGauges {
    /// Its MAC address, for people.
    pub mac: String,
    /// Its MTU.
    pub mtu: u16,
    /// What its endpoint is.
    pub endpoint: String,
    /// What else its endpoint shows.
    pub view: EndpointView,
    /// What the guest may send and receive.
    pub policy: Option<Policy>,
    /// Whether the guest has a link.
    pub link_up: AtomicBool,
    /// How it is limited and steered.
    pub settings: Mutex<PortSettings>,
    /// Its queues.
    pub queues: Box<[Arc<QueueGauges>]>,
}

/// How a port is limited and steered.
#[derive(Clone, Debug, Default)]
pub struct PortSettings {
    /// The limit of what is sent, in Mbit/s.
    pub rate_mbps: Option<u32>,
    /// What the guest has limited it to.
    pub guest_rate_mbps: Option<u32>,
    /// What an operator has limited it to.
    pub operator_rate_mbps: Option<u32>,
    /// What packets are steered by.
    pub steering: Option<Steering>,
}

/// The numbers of a queue.
#[derive(Debug)]
pub struct QueueGauges {
    /// Buffers that are posted.
    pub posted_buffers: Gauge,
    /// Transmits that have not ended.
    pub pending_transmits: Gauge,
    /// The last packet that was handed over; larger than any if there is none.
    handed_over: Gauge,
    /// What it did, in a row.
    counters: [Gauge; Counters::WORDS],
}

impl PortGauges {
    /// Makes the numbers of a port at which nothing happened yet.
    pub fn new(
        mac: String,
        mtu: u16,
        endpoint: String,
        view: EndpointView,
        queues: Box<[Arc<QueueGauges>]>,
    ) -> Self {
        Self {
            mac,
            mtu,
            endpoint,
            view,
            policy: None,
            link_up: AtomicBool::new(true),
            settings: Mutex::default(),
            queues,
        }
    }

    /// Shows what the guest may send and receive.
    pub fn with_policy(self, policy: Option<Policy>) -> Self {
        Self { policy, ..self }
    }

    /// Returns what its queues did so far.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        let each = self.queues.iter();
        each.for_each(|queue| all.add(&queue.counters()));
        all
    }

    /// Adds up a number of all queues.
    pub fn sum(&self, of: fn(&QueueGauges) -> &Gauge) -> u64 {
        self.queues.iter().map(|queue| of(queue).get()).sum()
    }
}

impl Default for QueueGauges {
    fn default() -> Self {
        Self {
            posted_buffers: Gauge::default(),
            pending_transmits: Gauge::default(),
            handed_over: Gauge(AtomicU64::new(u64::MAX)),
            counters: std::array::from_fn(|_| Gauge::default()),
        }
    }
}

impl QueueGauges {
    /// Shows what it did so far.
    #[inline]
    pub fn set_counters(&self, counters: &Counters) {
        for (gauge, word) in self.counters.iter().zip(counters.words()) {
            gauge.set(*word);
        }
    }

    /// Returns what it did so far. They may be of two moments of a batch.
    pub fn counters(&self) -> Counters {
        Counters::from_words(self.counters.each_ref().map(Gauge::get))
    }

    /// Shows which packet was handed over last.
    #[inline]
    pub fn set_handed_over(&self, last: Option<u32>) {
        self.handed_over.set(last.map_or(u64::MAX, u64::from));
    }

    /// Returns which packet was handed over last.
    pub fn handed_over(&self) -> Option<u32> {
        u32::try_from(self.handed_over.get()).ok()
    }
}

impl std::fmt::Debug for PortGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortGauges")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_comes_back_in_its_place() {
        let gauges = QueueGauges::default();
        assert_eq!(gauges.counters(), Counters::default());
        assert_eq!(gauges.handed_over(), None);
        let counters = Counters::from_words(std::array::from_fn(|place| place as u64 + 1));
        assert_eq!(counters.transmit.packets, 1);
        assert_eq!(counters.refused.received_vlan, Counters::WORDS as u64);
        gauges.set_counters(&counters);
        assert_eq!(gauges.counters(), counters);
        gauges.set_handed_over(Some(7));
        assert_eq!(gauges.handed_over(), Some(7));
    }
}
