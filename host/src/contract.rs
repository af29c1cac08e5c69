//! The types of the contract between device and host: `wit/device.wit` describes them item by
//! item. Both runtimes convert to and from them.

use bitflags::bitflags;

pub use crate::endpoint::{
    HashTypes, Offloads, RxBuffer, RxFlags, RxPacket, Steering, TxCompletion, TxPacket, TxStatus,
};
pub use crate::memory::Segment;

bitflags! {
    /// The features that a host offers and a device uses.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u8 {
        /// Ring windows in an arena of linear memory.
        const WINDOWS = 1 << 0;
        /// The host chooses receive queues by a hash.
        const STEERING = 1 << 1;
        /// Received packets carry a hash.
        const RECEIVE_HASH = 1 << 2;
        /// The host limits what a port sends.
        const RATE_LIMIT = 1 << 3;
        /// The host counts the traffic of a port's link.
        const STATISTICS = 1 << 4;
        /// The host delays interrupts on demand.
        const MODERATION = 1 << 5;
    }
}

/// A device's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What is emulated, and by which build.
    pub version: Version,
    /// The read-only part of configuration space.
    pub pci: PciIdentity,
    /// Memory BARs.
    pub bars: Vec<Bar>,
    /// Size of the MSI-X table, 1 to 2048.
    pub msix_vectors: u16,
    /// The most ports that `configure` accepts.
    pub max_ports: u32,
    /// The saved-state format that this build writes, if it can.
    pub saved_state_writes: Option<u32>,
    /// The saved-state formats that this build reads.
    pub saved_state_reads: Vec<u32>,
    /// Registers whose last values the host keeps.
    pub doorbells: Vec<DoorbellRange>,
}

/// A device's name and build, as its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What is emulated, for people.
    pub name: Vec<u8>,
    /// Semantic version of the build.
    pub build: Vec<u8>,
}

/// PCI identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are PCI's")]
pub struct PciIdentity {
    pub vendor_id: u16,
    pub device_id: u16,
    pub subsystem_vendor_id: u16,
    pub subsystem_id: u16,
    pub revision_id: u8,
    /// Base class, subclass and programming interface in the low 24 bits.
    pub class_code: u32,
}

/// A memory BAR (64-bit, not prefetchable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// 0, 2 or 4.
    pub index: u8,
    /// Size in bytes, a power of two of at least 4096.
    pub size: u64,
}

/// A range of a BAR where a write of 8 bytes replaces an earlier one to the same offset with the
/// same `key` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellRange {
    /// The BAR's index.
    pub bar: u8,
    /// Where in the BAR it begins.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// The bits of a value that distinguish doorbells.
    pub key: u64,
}

/// The upper bounds of what the host accepts from a device; see [`crate::runtime::bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is described in the contract")]
pub struct Bounds {
    pub arena_bytes: u32,
    pub windows: u32,
    pub window_pages: u32,
    pub copy_bytes: u32,
    pub packets: u32,
    pub segments: u32,
    pub buffers: u32,
    pub state_bytes: u32,
    pub inspect_bytes: u32,
    pub line_bytes: u32,
}

/// Whether a port's link carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It carries none.
    Down,
    /// It carries packets.
    Up,
    /// The host can't tell.
    Unknown,
}

/// A port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it carries packets.
    pub state: LinkState,
    /// 0 if unknown.
    pub speed_mbps: u32,
    /// Largest layer-3 packet in bytes, 68 to 65521.
    pub mtu: u16,
}

/// A port, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Unicast address in transmission order, from the low byte up.
    pub mac: u64,
    /// Its link.
    pub link: Link,
    /// Queue pairs, 1 to 64.
    pub queues: u16,
}

/// The traffic of a port's link since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatistics {
    /// Packets that were received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that arrived and found no room.
    pub rx_dropped: u64,
    /// Packets that were sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that the link did not take.
    pub tx_dropped: u64,
}

/// Why a device refuses its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says it")]
pub enum ConfigureError {
    NoPorts,
    TooManyPorts,
    InvalidMac,
    InvalidMtu,
    Repeated,
    InvalidQueues,
}

/// Why a device refuses a saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRefusal {
    /// The device was not configured just before.
    NotConfigured,
    /// The state has this format, which the build does not read.
    Version(u32),
    /// It is no state, it is damaged, or it contradicts itself.
    Malformed(Vec<u8>),
    /// It is the state of a device with other ports.
    Mismatch(Vec<u8>),
    /// It needs a feature that was not negotiated.
    Unsupported(Vec<u8>),
}

impl std::fmt::Display for StateRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, words) = match self {
            Self::NotConfigured => return f.write_str("it was not configured just before"),
            Self::Version(version) => return write!(f, "it does not read format {version}"),
            Self::Malformed(words) => ("malformed", words),
            Self::Mismatch(words) => ("of another device", words),
            Self::Unsupported(words) => ("not supported", words),
        };
        write!(
            f,
            "{what}: {}",
            manatee_common::ration::clean(words, manatee_common::ration::MAX_LINE)
        )
    }
}

/// A write of 8 bytes to a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RegisterWrite {
    pub bar: u8,
    pub offset: u64,
    pub value: u64,
}

/// The last packet of a queue that the host took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct HandedOver {
    pub port: u32,
    pub queue: u32,
    pub id: u32,
}

/// The host's observations of a device whose component failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    /// The last write to each doorbell.
    pub doorbells: Vec<RegisterWrite>,
    /// The last packet of each queue.
    pub transmitted: Vec<HandedOver>,
    /// Work queue entries to skip.
    pub skip: Vec<u64>,
}

/// A notification for the guest's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It should reset the device.
    ResetRequest,
    /// The device is serviced: it disappears for a while and returns.
    Service,
    /// What the device offers has changed.
    Reconfigure,
}

/// Severity of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the usual ones")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Returns the level with this number in the contract.
    pub fn from_case(case: u32) -> Option<Self> {
        Some(match case {
            0 => Self::Error,
            1 => Self::Warn,
            2 => Self::Info,
            3 => Self::Debug,
            4 => Self::Trace,
            _ => return None,
        })
    }
}

/// Why guest memory was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// Part of the range is not memory that the VMM shared.
    Unmapped,
    /// More bytes than one call may copy.
    TooLong,
}

/// Why a window or the arena was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRefusal {
    /// There are no windows here, or not for this memory.
    Unsupported,
    /// The range or a page is not one that a window can have.
    Invalid,
    /// The maximum number is reached.
    Exhausted,
}
