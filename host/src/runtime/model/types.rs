//! The contract's types for wasmtime's component model, as far as both versions of the contract
//! share them.

use wasmtime::component::{ComponentType, Lift, Lower, flags};

use crate::contract;

flags! {
    Offloads {
        #[component(name = "ipv4")]
        const IPV4;
        #[component(name = "ipv6")]
        const IPV6;
        #[component(name = "ip-checksum")]
        const IP_CHECKSUM;
        #[component(name = "tcp-checksum")]
        const TCP_CHECKSUM;
        #[component(name = "udp-checksum")]
        const UDP_CHECKSUM;
        #[component(name = "tcp-segmentation")]
        const TCP_SEGMENTATION;
        #[component(name = "insert-vlan")]
        const INSERT_VLAN;
    }
}

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
pub struct TxPacket {
    id: u32,
    segments: u16,
    #[component(name = "l4-offset")]
    l4_offset: u16,
    #[component(name = "segment-size")]
    segment_size: u16,
    #[component(name = "vlan-tci")]
    vlan_tci: u16,
    offloads: Offloads,
}

impl From<TxPacket> for contract::TxPacket {
    fn from(packet: TxPacket) -> Self {
        Self {
            id: packet.id,
            segments: packet.segments,
            l4_offset: packet.l4_offset,
            segment_size: packet.segment_size,
            vlan_tci: packet.vlan_tci,
            offloads: contract::Offloads::from_bits_truncate(packet.offloads.__inner0),
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Segment {
    address: u64,
    length: u32,
}

impl From<Segment> for contract::Segment {
    fn from(segment: Segment) -> Self {
        Self {
            address: segment.address,
            length: segment.length,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
pub struct RxBuffer {
    id: u32,
    segments: u16,
}

impl From<RxBuffer> for contract::RxBuffer {
    fn from(buffer: RxBuffer) -> Self {
        Self {
            id: buffer.id,
            segments: buffer.segments,
        }
    }
}

/// Defines an enum of the contract, and its conversion from the host's own.
macro_rules! cases {
    ($name:ident from $own:path { $($case:ident = $wit:literal),* $(,)? }) => {
        #[derive(Clone, Copy, ComponentType, Lift, Lower)]
        #[component(enum)]
        #[repr(u8)]
        pub enum $name {
            $(#[component(name = $wit)] $case,)*
        }

        impl From<$own> for $name {
            fn from(own: $own) -> Self {
                match own {
                    $(<$own>::$case => Self::$case,)*
                }
            }
        }
    };
}
pub(super) use cases;

cases!(TxStatus from contract::TxStatus {
    Sent = "sent",
    Pending = "pending",
    Dropped = "dropped",
    MemoryFault = "memory-fault",
    TooLong = "too-long",
    BadHeaders = "bad-headers",
});

cases!(MemoryError from contract::MemoryError {
    Unmapped = "unmapped",
    TooLong = "too-long",
});

cases!(WindowError from contract::WindowRefusal {
    Unsupported = "unsupported",
    Invalid = "invalid",
    Exhausted = "exhausted",
});

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum Level {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
    #[component(name = "trace")]
    Trace,
}

impl From<Level> for contract::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
pub struct TxCompletion {
    id: u32,
    status: TxStatus,
}

impl From<&contract::TxCompletion> for TxCompletion {
    fn from(completion: &contract::TxCompletion) -> Self {
        Self {
            id: completion.id,
            status: completion.status.into(),
        }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub struct TransmitResult {
    pub statuses: Vec<TxStatus>,
    #[component(name = "multicast-packets")]
    pub multicast_packets: u32,
    #[component(name = "multicast-bytes")]
    pub multicast_bytes: u64,
    #[component(name = "broadcast-packets")]
    pub broadcast_packets: u32,
    #[component(name = "broadcast-bytes")]
    pub broadcast_bytes: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Version {
    name: Vec<u8>,
    build: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct PciIdentity {
    #[component(name = "vendor-id")]
    vendor_id: u16,
    #[component(name = "device-id")]
    device_id: u16,
    #[component(name = "subsystem-vendor-id")]
    subsystem_vendor_id: u16,
    #[component(name = "subsystem-id")]
    subsystem_id: u16,
    #[component(name = "revision-id")]
    revision_id: u8,
    #[component(name = "class-code")]
    class_code: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Bar {
    index: u8,
    size: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Doorbells {
    bar: u8,
    offset: u64,
    length: u64,
    key: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct Description {
    version: Version,
    pci: PciIdentity,
    bars: Vec<Bar>,
    #[component(name = "msix-vectors")]
    msix_vectors: u16,
    #[component(name = "max-ports")]
    max_ports: u32,
    #[component(name = "saved-state-writes")]
    saved_state_writes: Option<u32>,
    #[component(name = "saved-state-reads")]
    saved_state_reads: Vec<u32>,
    doorbells: Vec<Doorbells>,
}

impl From<Description> for contract::Description {
    fn from(description: Description) -> Self {
        let Description { version, pci, .. } = description;
        let bars = description.bars.iter().map(|bar| contract::Bar {
            index: bar.index,
            size: bar.size,
        });
        let doorbells = description.doorbells.iter();
        let doorbells = doorbells.map(|range| contract::DoorbellRange {
            bar: range.bar,
            offset: range.offset,
            length: range.length,
            key: range.key,
        });
        Self {
            version: contract::Version {
                name: version.name,
                build: version.build,
            },
            pci: contract::PciIdentity {
                vendor_id: pci.vendor_id,
                device_id: pci.device_id,
                subsystem_vendor_id: pci.subsystem_vendor_id,
                subsystem_id: pci.subsystem_id,
                revision_id: pci.revision_id,
                class_code: pci.class_code,
            },
            bars: bars.collect(),
            msix_vectors: description.msix_vectors,
            max_ports: description.max_ports,
            saved_state_writes: description.saved_state_writes,
            doorbells: doorbells.collect(),
            saved_state_reads: description.saved_state_reads,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct RegisterWrite {
    bar: u8,
    offset: u64,
    value: u64,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub struct HandedOver {
    port: u32,
    queue: u32,
    id: u32,
}

#[derive(Clone, ComponentType, Lower)]
#[component(record)]
pub struct Observations {
    doorbells: Vec<RegisterWrite>,
    transmitted: Vec<HandedOver>,
    skip: Vec<u64>,
}

impl From<&contract::Observations> for Observations {
    fn from(seen: &contract::Observations) -> Self {
        let doorbells = seen.doorbells.iter().map(|write| RegisterWrite {
            bar: write.bar,
            offset: write.offset,
            value: write.value,
        });
        let transmitted = seen.transmitted.iter().map(|last| HandedOver {
            port: last.port,
            queue: last.queue,
            id: last.id,
        });
        Self {
            doorbells: doorbells.collect(),
            transmitted: transmitted.collect(),
            skip: seen.skip.clone(),
        }
    }
}
