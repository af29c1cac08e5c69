//! The types that only version 0.1.0 of the contract has. A component of that version still
//! runs: without windows, with one queue a port, and with a link that is up or down.

use wasmtime::component::{ComponentType, Lift, Lower, flags};

use crate::contract;

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct PortConfig {
    mac: u64,
    mtu: u16,
    #[component(name = "link-speed-mbps")]
    link_speed_mbps: u32,
    #[component(name = "link-up")]
    link_up: bool,
}

impl From<&contract::PortConfig> for PortConfig {
    fn from(port: &contract::PortConfig) -> Self {
        Self {
            mac: port.mac,
            mtu: port.link.mtu,
            link_speed_mbps: port.link.speed_mbps,
            link_up: carries(port.link),
        }
    }
}

/// Returns whether a device that knows two states of a link is told that it is up.
pub fn carries(link: contract::Link) -> bool {
    link.state != contract::LinkState::Down
}

#[derive(ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[derive(Clone, Copy)]
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
}

impl From<ConfigureError> for contract::ConfigureError {
    fn from(error: ConfigureError) -> Self {
        match error {
            ConfigureError::NoPorts => Self::NoPorts,
            ConfigureError::TooManyPorts => Self::TooManyPorts,
            ConfigureError::InvalidMac => Self::InvalidMac,
            ConfigureError::InvalidMtu => Self::InvalidMtu,
            ConfigureError::Repeated => Self::Repeated,
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
}

impl From<RestoreError> for contract::StateRefusal {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::NotConfigured => Self::NotConfigured,
            RestoreError::Version(version) => Self::Version(version),
            RestoreError::Malformed(words) => Self::Malformed(words),
            RestoreError::Mismatch(words) => Self::Mismatch(words),
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
}

impl From<&contract::RxPacket> for RxPacket {
    fn from(packet: &contract::RxPacket) -> Self {
        let hashes = contract::RxFlags::HASH_L3 | contract::RxFlags::HASH_L4;
        Self {
            id: packet.id,
            length: packet.length,
            vlan_tci: packet.vlan_tci,
            flags: RxFlags {
                __inner0: (packet.flags - hashes).bits(),
            },
        }
    }
}
