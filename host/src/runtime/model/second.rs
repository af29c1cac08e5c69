//! The types that only version 0.2.0 of the contract has.

use wasmtime::component::{ComponentType, Lift, Lower, WasmList, flags};

use super::types::cases;
use crate::contract;

flags! {
    Features {
        #[component(name = "windows")]
        const WINDOWS;
        #[component(name = "steering")]
        const STEERING;
        #[component(name = "receive-hash")]
        const RECEIVE_HASH;
        #[component(name = "rate-limit")]
        const RATE_LIMIT;
        #[component(name = "statistics")]
        const STATISTICS;
        #[component(name = "moderation")]
        const MODERATION;
    }
}

impl From<contract::Features> for Features {
    fn from(features: contract::Features) -> Self {
        Self {
            __inner0: features.bits(),
        }
    }
}

impl From<Features> for contract::Features {
    fn from(features: Features) -> Self {
        Self::from_bits_truncate(features.__inner0)
    }
}

/// Never read: there are no windows in the component model.
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code)]
pub enum WindowAccess {
    #[component(name = "read-write")]
    ReadWrite,
    #[component(name = "read-only")]
    ReadOnly,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct Bounds {
    #[component(name = "arena-bytes")]
    arena_bytes: u32,
    windows: u32,
    #[component(name = "window-pages")]
    window_pages: u32,
    #[component(name = "copy-bytes")]
    copy_bytes: u32,
    packets: u32,
    segments: u32,
    buffers: u32,
    #[component(name = "state-bytes")]
    state_bytes: u32,
    #[component(name = "inspect-bytes")]
    inspect_bytes: u32,
    #[component(name = "line-bytes")]
    line_bytes: u32,
}

impl From<&contract::Bounds> for Bounds {
    fn from(bounds: &contract::Bounds) -> Self {
        Self {
            arena_bytes: bounds.arena_bytes,
            windows: bounds.windows,
            window_pages: bounds.window_pages,
            copy_bytes: bounds.copy_bytes,
            packets: bounds.packets,
            segments: bounds.segments,
            buffers: bounds.buffers,
            state_bytes: bounds.state_bytes,
            inspect_bytes: bounds.inspect_bytes,
            line_bytes: bounds.line_bytes,
        }
    }
}

cases!(LinkState from contract::LinkState {
    Down = "down",
    Up = "up",
    Unknown = "unknown",
});

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct Link {
    state: LinkState,
    #[component(name = "speed-mbps")]
    speed_mbps: u32,
    mtu: u16,
}

impl From<contract::Link> for Link {
    fn from(link: contract::Link) -> Self {
        Self {
            state: link.state.into(),
            speed_mbps: link.speed_mbps,
            mtu: link.mtu,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct PortConfig {
    mac: u64,
    link: Link,
    queues: u16,
}

impl From<&contract::PortConfig> for PortConfig {
    fn from(port: &contract::PortConfig) -> Self {
        Self {
            mac: port.mac,
            link: port.link.into(),
            queues: port.queues,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum ConfigureError {
    #[component(name = "no-ports")]
    NoPorts,
    #[component(name = "too-many-ports")]
    TooManyPorts,
    #[component(name = "invalid-mac")]
    InvalidMac,
    #[component(name = "invalid-mtu")]
    InvalidMtu,
    #[component(name = "repeated")]
    Repeated,
    #[component(name = "invalid-queues")]
    InvalidQueues,
}

impl From<ConfigureError> for contract::ConfigureError {
    fn from(error: ConfigureError) -> Self {
        match error {
            ConfigureError::NoPorts => Self::NoPorts,
            ConfigureError::TooManyPorts => Self::TooManyPorts,
            ConfigureError::InvalidMac => Self::InvalidMac,
            ConfigureError::InvalidMtu => Self::InvalidMtu,
            ConfigureError::Repeated => Self::Repeated,
            ConfigureError::InvalidQueues => Self::InvalidQueues,
        }
    }
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum RestoreError {
    #[component(name = "not-configured")]
    NotConfigured,
    #[component(name = "version")]
    Version(u32),
    #[component(name = "malformed")]
    Malformed(Vec<u8>),
    #[component(name = "mismatch")]
    Mismatch(Vec<u8>),
    #[component(name = "unsupported")]
    Unsupported(Vec<u8>),
}

impl From<RestoreError> for contract::StateRefusal {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::NotConfigured => Self::NotConfigured,
            RestoreError::Version(version) => Self::Version(version),
            RestoreError::Malformed(words) => Self::Malformed(words),
            RestoreError::Mismatch(words) => Self::Mismatch(words),
            RestoreError::Unsupported(words) => Self::Unsupported(words),
        }
    }
}

flags! {
    RxFlags {
        #[component(name = "truncated")]
        const TRUNCATED;
        #[component(name = "memory-fault")]
        const MEMORY_FAULT;
        #[component(name = "ipv4")]
        const IPV4;
        #[component(name = "ipv6")]
        const IPV6;
        #[component(name = "tcp")]
        const TCP;
        #[component(name = "udp")]
        const UDP;
        #[component(name = "ip-checksum-good")]
        const IP_CHECKSUM_GOOD;
        #[component(name = "ip-checksum-bad")]
        const IP_CHECKSUM_BAD;
        #[component(name = "l4-checksum-good")]
        const L4_CHECKSUM_GOOD;
        #[component(name = "l4-checksum-bad")]
        const L4_CHECKSUM_BAD;
        #[component(name = "multicast")]
        const MULTICAST;
        #[component(name = "broadcast")]
        const BROADCAST;
        #[component(name = "vlan")]
        const VLAN;
        #[component(name = "hash-l3")]
        const HASH_L3;
        #[component(name = "hash-l4")]
        const HASH_L4;
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct RxPacket {
    id: u32,
    length: u32,
    #[component(name = "vlan-tci")]
    vlan_tci: u16,
    flags: RxFlags,
    hash: u32,
}

impl From<&contract::RxPacket> for RxPacket {
    fn from(packet: &contract::RxPacket) -> Self {
        Self {
            id: packet.id,
            length: packet.length,
            vlan_tci: packet.vlan_tci,
            flags: RxFlags {
                __inner0: packet.flags.bits(),
            },
            hash: packet.hash,
        }
    }
}

cases!(DeviceEvent from contract::DeviceEvent {
    ResetRequest = "reset-request",
    Service = "service",
    Reconfigure = "reconfigure",
});

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(record)]
pub struct Delayed {
    pub vector: u16,
    pub microseconds: u32,
}

flags! {
    HashTypes {
        #[component(name = "ipv4")]
        const IPV4;
        #[component(name = "ipv4-tcp")]
        const IPV4_TCP;
        #[component(name = "ipv4-udp")]
        const IPV4_UDP;
        #[component(name = "ipv6")]
        const IPV6;
        #[component(name = "ipv6-tcp")]
        const IPV6_TCP;
        #[component(name = "ipv6-udp")]
        const IPV6_UDP;
    }
}

impl From<HashTypes> for contract::HashTypes {
    fn from(types: HashTypes) -> Self {
        Self::from_bits_truncate(types.__inner0)
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Steering {
    #[component(name = "hash-types")]
    pub hash_types: HashTypes,
    pub key: WasmList<u8>,
    pub table: WasmList<u16>,
    #[component(name = "default-queue")]
    pub default_queue: u32,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct LinkStatistics {
    #[component(name = "rx-packets")]
    rx_packets: u64,
    #[component(name = "rx-bytes")]
    rx_bytes: u64,
    #[component(name = "rx-dropped")]
    rx_dropped: u64,
    #[component(name = "tx-packets")]
    tx_packets: u64,
    #[component(name = "tx-bytes")]
    tx_bytes: u64,
    #[component(name = "tx-dropped")]
    tx_dropped: u64,
}

impl From<contract::LinkStatistics> for LinkStatistics {
    fn from(counted: contract::LinkStatistics) -> Self {
        Self {
            rx_packets: counted.rx_packets,
            rx_bytes: counted.rx_bytes,
            rx_dropped: counted.rx_dropped,
            tx_packets: counted.tx_packets,
            tx_bytes: counted.tx_bytes,
            tx_dropped: counted.tx_dropped,
        }
    }
}
