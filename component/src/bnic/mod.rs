//! The basic NIC: vports with a send and a receive queue each.

pub(crate) mod batch;
pub mod commands;
pub mod objects;
pub mod posted;
pub mod rx;
mod state;
pub mod tx;

use alloc::vec::Vec;

use device_kit::adapter::PortConfig;
use slab::Slab;

use batch::Batch;
use device_kit::FaultCounter;
use mana_wire::bnic::{HASH_KEY_SIZE, INDIRECTION_ENTRIES, Stats};
use objects::WqObject;

/// Protection domain of the NIC.
pub const MANA_PDID: u32 = 1;
/// Memory key of the NIC's work queue entries: all of guest memory.
pub const MANA_MEM_KEY: u32 = 1;
/// Doorbell page of the NIC.
pub const MANA_DOORBELL: u32 = 0;
/// The most vports (`MAX_PORTS_IN_MANA_DEV`).
pub const MAX_VPORTS: usize = 256;
/// Send queues of a vport, and as many receive queues.
pub const MAX_QUEUES: u32 = 1;
/// Offset that transmit OOBs name, the same for every vport of this function.
pub const TX_VPORT_OFFSET: u16 = 0;

/// The NIC.
#[derive(Debug, Default)]
pub struct Nic {
    /// Between `REGISTER_DEVICE` and `DEREGISTER_DEVICE`.
    pub registered: bool,
    /// The vports, in the order of the host's ports.
    pub vports: Vec<Vport>,
    pub(crate) objects: Slab<WqObject>,
    /// Keys of those with entries that wait for their turn.
    pub(crate) waiting: Vec<usize>,
    /// Number of the last object.
    sequence: u32,
    batch: Batch,
}

/// A vport.
#[derive(Debug)]
pub struct Vport {
    /// From the host.
    pub config: PortConfig,
    /// `CONFIG_VPORT_TX` came.
    pub tx_enabled: bool,
    /// How packets find their receive queue.
    pub steering: Steering,
    /// Set by `VTL2_ASSIGN_SERIAL_NUMBER`.
    pub serial_no: u32,
    /// Set by `VTL2_MOVE_FILTER`.
    pub filter_to_vtl0: bool,
    /// Counters since power-on; the unicast transmit counters here count
    /// every packet.
    stats: Stats,
    /// Faults of the driver, for the log.
    pub faults: FaultCounter,
}

/// How a vport's packets find their receive queue (`CONFIG_VPORT_RX`).
#[derive(Clone, Debug)]
pub struct Steering {
    /// Packets are received at all.
    pub enabled: bool,
    /// Spread by hash. With one receive queue, all go there.
    pub rss: bool,
    /// Handle of the receive queue object for packets without a hash.
    pub default_object: Option<u64>,
    /// Toeplitz key.
    pub hash_key: [u8; HASH_KEY_SIZE],
    /// Handles of receive queue objects by hash.
    pub table: Vec<u64>,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            enabled: false,
            rss: false,
            default_object: None,
            hash_key: [0; HASH_KEY_SIZE],
            table: Vec::with_capacity(INDIRECTION_ENTRIES.into()),
        }
    }
}

impl Vport {
    /// Longest frame without a tag, in bytes.
    pub fn max_frame(&self) -> u16 {
        self.config.mtu + 14
    }

    fn new(config: PortConfig) -> Self {
        Self {
            config,
            tx_enabled: false,
            steering: Steering::default(),
            serial_no: 0,
            filter_to_vtl0: false,
            stats: Stats::default(),
            faults: FaultCounter::default(),
        }
    }

    /// Counters as a driver expects them.
    pub fn reported_stats(&self) -> Stats {
        let all = self.stats;
        let group_pkts = all.tx_mcast_pkts + all.tx_bcast_pkts;
        let group_bytes = all.tx_mcast_bytes + all.tx_bcast_bytes;
        Stats {
            tx_ucast_pkts: all.tx_ucast_pkts.saturating_sub(group_pkts),
            tx_ucast_bytes: all.tx_ucast_bytes.saturating_sub(group_bytes),
            ..all
        }
    }
}

/// Set in every vport handle, so that no other handle is one.
const VPORT_TAG: u64 = 0x5650 << 48;

impl Nic {
    /// A NIC at power-on.
    pub fn new(ports: impl IntoIterator<Item = PortConfig>) -> Self {
        Self {
            vports: ports.into_iter().map(Vport::new).collect(),
            ..Self::default()
        }
    }

    /// Back to power-on, in the state of the links as it is.
    pub fn reset(&mut self) {
        *self = Self::new(self.vports.iter().map(|vport| vport.config));
    }

    /// An object has entries that wait for their turn.
    fn wait(&mut self, key: usize) {
        if !self.waiting.contains(&key) {
            self.waiting.push(key);
        }
    }

    /// The handle of a vport.
    pub fn vport_handle(index: usize) -> u64 {
        VPORT_TAG | (index as u64 + 1)
    }

    /// The vport that a handle names.
    pub fn vport_index(&self, handle: u64) -> Option<usize> {
        let index = (handle ^ VPORT_TAG).checked_sub(1)? as usize;
        (handle & (0xffff << 48) == VPORT_TAG && index < self.vports.len()).then_some(index)
    }

    /// Whether a completion queue belongs to a work queue object.
    pub fn uses_cq(&self, id: u32) -> bool {
        self.objects.iter().any(|(_, object)| object.cq == id)
    }

    /// Counters of all vports together.
    pub fn total_stats(&self) -> Stats {
        use zerocopy::{FromBytes, IntoBytes};
        let mut total = Stats::default();
        for vport in &self.vports {
            let sums = <[u64]>::mut_from_bytes(total.as_mut_bytes()).unwrap_or_default();
            let stats = vport.reported_stats();
            let parts = <[u64]>::ref_from_bytes(stats.as_bytes()).unwrap_or_default();
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = sum.wrapping_add(*part);
            }
        }
        total
    }

    /// Work queue objects, for inspection.
    pub fn objects(&self) -> impl Iterator<Item = (u64, &WqObject)> {
        self.objects
            .iter()
            .map(|(_, object)| (object.handle(), object))
    }
}
