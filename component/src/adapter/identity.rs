//! The description of the adapter for its host.

use alloc::vec::Vec;

use device_kit::adapter::Description;
use device_kit::bindings::exports::manatee::device::device::{
    Bar, Doorbells, PciIdentity, Version,
};
use mana_wire::queue::WqDoorbell;
use mana_wire::registers::{BAR0_SIZE, DOORBELL_PAGE_SIZE, DOORBELLS};

use crate::limits::{MAX_VECTORS, MAX_VPORTS};
use crate::state;

/// The name of the build: `MANATEE_BUILD` at compile time, or the package's version.
const BUILD: &str = match option_env!("MANATEE_BUILD") {
    Some(build) => build,
    None => env!("CARGO_PKG_VERSION"),
};

/// Describes the adapter.
pub(super) fn describe() -> Description {
    Description {
        version: Version {
            name: Vec::from(b"MANA VF"),
            build: Vec::from(BUILD.as_bytes()),
        },
        pci: PciIdentity {
            vendor_id: 0x1414,
            device_id: 0x00ba,
            subsystem_vendor_id: 0x1414,
            subsystem_id: 0,
            revision_id: 1,
            class_code: 0x02_00_00,
        },
        bars: Vec::from([Bar {
            index: 0,
            size: BAR0_SIZE,
        }]),
        msix_vectors: MAX_VECTORS,
        max_ports: MAX_VPORTS as u32,
        saved_state_writes: Some(state::VERSION),
        saved_state_reads: state::READS.to_vec(),
        doorbells: Vec::from([Doorbells {
            bar: 0,
            offset: DOORBELLS,
            length: DOORBELL_PAGE_SIZE,
            key: WqDoorbell::new().with_id(!0 >> 8).into_bits(),
        }]),
    }
}
