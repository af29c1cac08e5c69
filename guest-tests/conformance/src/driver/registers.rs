//! The register map at the beginning of BAR 0 (`mana_gd_init_vf_regs`).

use crate::bench::Bench;

/// The values that a driver reads from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterMap {
    /// Major, minor and micro version of the map.
    pub version: (u8, u8, u16),
    /// Offset of the doorbell pages.
    pub doorbells: u64,
    /// Size of a doorbell page.
    pub doorbell_page: u16,
    /// Offset of the shared-memory channel.
    pub shared_memory: u64,
}

impl RegisterMap {
    /// `GDMA_REG_DB_PAGE_OFFSET`.
    pub const DOORBELLS: u64 = 8;
    /// `GDMA_REG_DB_PAGE_SIZE`.
    pub const DOORBELL_PAGE: u64 = 0x10;
    /// `GDMA_REG_SHM_OFFSET`.
    pub const SHARED_MEMORY: u64 = 0x18;

    /// Reads the map.
    pub fn read(bench: &mut dyn Bench) -> Self {
        let version = bench.read_register(0, 4) as u32;
        Self {
            version: ((version >> 24) as u8, (version >> 16) as u8, version as u16),
            doorbells: bench.read_register(Self::DOORBELLS, 8),
            doorbell_page: bench.read_register(Self::DOORBELL_PAGE, 4) as u16,
            shared_memory: bench.read_register(Self::SHARED_MEMORY, 8),
        }
    }
}
