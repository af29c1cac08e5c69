//! What an instance's imports work on: the host's side of a device.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{StoreLimits, StoreLimitsBuilder};

use super::linear_memory::Reservation;
use super::log_limit::LogLimit;
use super::packets::Scratch;
use super::port::PortState;
use crate::interrupt::Interrupts;
use crate::memory::GuestMemory;
use crate::pci::Function;

/// Bounds of what one device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory in bytes, windows included.
    pub memory: usize,
    /// Longest that one call may run.
    pub deadline: Duration,
    /// Whether ring windows are given; without, the device copies.
    pub windows: bool,
}

impl Default for Limits {
    /// 512 MiB of addresses (a window takes addresses, not memory), one
    /// second, with windows.
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            deadline: Duration::from_secs(1),
            windows: true,
        }
    }
}

/// The host's side of a device, which outlives an instance that failed.
#[derive(Debug)]
pub struct HostState {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Configuration space and MSI-X.
    pub function: Function,
    /// Where interrupts go.
    pub interrupts: Interrupts,
    /// The ports.
    pub ports: Vec<PortState>,
    /// The instance's linear memory, if windows can be laid over it.
    pub linear_memory: Option<Arc<Reservation>>,
    /// What the instance may use.
    pub limits: Limits,
    /// wasmtime's form of the same.
    pub store_limits: StoreLimits,
    /// How much it may log.
    pub log_limit: LogLimit,
    /// Where the lists of a call are copied to.
    pub scratch: Scratch,
    /// Interrupts raised.
    pub interrupts_raised: u64,
}

impl HostState {
    /// The state of a new device.
    pub fn new(
        function: Function,
        interrupts: Interrupts,
        ports: Vec<PortState>,
        limits: Limits,
    ) -> Self {
        Self {
            memory: GuestMemory::new(),
            function,
            interrupts,
            ports,
            linear_memory: None,
            limits,
            store_limits: store_limits(&limits),
            log_limit: LogLimit::default(),
            scratch: Scratch::default(),
            interrupts_raised: 0,
        }
    }

    /// Raises an MSI-X vector; one beyond the table is ignored.
    pub fn raise(&mut self, vector: u16) {
        if vector >= self.function.msix_vectors() || !self.function.bus_master() {
            return;
        }
        self.interrupts_raised += 1;
        match &self.interrupts {
            Interrupts::Vectors(sink) => sink.raise(vector),
            Interrupts::Messages(sink) => {
                if let Some(message) = self.function.raise(vector) {
                    sink.send(message);
                }
            }
        }
    }

    /// Takes back everything that the instance gave out: buffers, pending
    /// transmits, windows.
    pub fn abandon_instance(&mut self) {
        for port in &mut self.ports {
            port.cancel_receive();
            port.cancel_transmit();
        }
        self.linear_memory = None;
        self.store_limits = store_limits(&self.limits);
    }

    /// Guest memory went away: windows must not show it any more.
    pub fn revoke(&self, gone: &[Range<u64>]) {
        let Some(linear_memory) = &self.linear_memory else {
            return;
        };
        let revoked: usize = gone.iter().map(|range| linear_memory.revoke(range)).sum();
        if revoked > 0 {
            tracing::warn!(
                pages = revoked,
                "the VMM took away memory that the device's queues lie in"
            );
        }
    }
}

fn store_limits(limits: &Limits) -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(limits.memory)
        .memories(1)
        .tables(8)
        .table_elements(10_000)
        .instances(16)
        .build()
}
