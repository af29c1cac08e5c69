//! A device's counters, which any thread may read without its lock.
//!
//! Only the holder of the device's lock writes them, so that an addition is a load and a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::endpoint::{Counters, EndpointView, Policy, Steering};

/// A counter with one writer at a time.
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

/// The counters of a device.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Interrupts that it raised.
    pub interrupts_raised: Gauge,
    /// Calls into its component.
    pub calls: Gauge,
    /// Calls that exceeded their deadline.
    pub deadlines_missed: Gauge,
    /// Log lines of its component that were dropped.
    pub log_lines_dropped: Gauge,
    /// Its ports.
    pub ports: Vec<Arc<PortGauges>>,
}

/// The counters of a port, and its rarely changing properties.
pub struct PortGauges {
    /// Its MAC address, for people.
    pub mac: String,
    /// Its MTU.
    pub mtu: u16,
    /// A description of its endpoint.
    pub endpoint: String,
    /// The endpoint's state, for `inspect`.
    pub view: EndpointView,
    /// Its policy.
    pub policy: Option<Policy>,
    /// Whether the guest has a link.
    pub link_up: AtomicBool,
    /// How it is limited and steered.
    pub settings: Mutex<PortSettings>,
    /// Its queues.
    pub queues: Box<[Arc<QueueGauges>]>,
}

/// The settings of a port.
#[derive(Clone, Debug, Default)]
pub struct PortSettings {
    /// The maximum transmit rate in Mbit/s.
    pub rate_mbps: Option<u32>,
    /// The guest's limit.
    pub guest_rate_mbps: Option<u32>,
    /// The operator's limit.
    pub operator_rate_mbps: Option<u32>,
    /// The steering.
    pub steering: Option<Steering>,
}

/// The counters of a queue.
#[derive(Debug)]
pub struct QueueGauges {
    /// Buffers that are posted.
    pub posted_buffers: Gauge,
    /// Pending transmits.
    pub pending_transmits: Gauge,
    /// The id of the last packet that was handed over; above all ids if there is none.
    handed_over: Gauge,
    /// The endpoint's counters, as an array.
    counters: [Gauge; Counters::WORDS],
}

impl PortGauges {
    /// Creates the counters of an unused port.
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

    /// Publishes the port's policy.
    pub fn with_policy(self, policy: Option<Policy>) -> Self {
        Self { policy, ..self }
    }

    /// Returns the sum of its queues' counters.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        let each = self.queues.iter();
        each.for_each(|queue| all.add(&queue.counters()));
        all
    }

    /// Sums a counter over all queues.
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
    /// Publishes the queue's counters.
    #[inline]
    pub fn set_counters(&self, counters: &Counters) {
        for (gauge, word) in self.counters.iter().zip(counters.words()) {
            gauge.set(*word);
        }
    }

    /// Returns the queue's counters. They may be from two moments of a batch.
    pub fn counters(&self) -> Counters {
        Counters::from_words(self.counters.each_ref().map(Gauge::get))
    }

    /// Publishes which packet was handed over last.
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
