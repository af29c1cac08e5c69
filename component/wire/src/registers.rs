//! BAR 0: the registers that a VF driver reads (`mana_gd_init_vf_regs`), the
//! shared-memory channel, and the doorbell page.

use crate::smc::APERTURE;

/// Size of BAR 0: a page of registers and a page of doorbells.
pub const BAR0_SIZE: u64 = 0x2000;
/// Offset of the shared-memory channel, in the register at
/// `GDMA_REG_SHM_OFFSET`.
pub const SHARED_MEMORY: u64 = 0x40;
/// End of the shared-memory channel.
pub const SHARED_MEMORY_END: u64 = SHARED_MEMORY + APERTURE as u64;
/// Offset of the doorbell page, in the register at `GDMA_REG_DB_PAGE_OFFSET`.
pub const DOORBELLS: u64 = 0x1000;
/// Size of the doorbell page in bytes.
pub const DOORBELL_PAGE_SIZE: u64 = 0x1000;
/// Version of the register map: major, minor, micro.
const VERSION: (u8, u8, u16) = (1, 0, 1);

/// Returns the bytes of the register map.
#[must_use]
pub fn map() -> [u8; 0x28] {
    let (major, minor, micro) = VERSION;
    let mut map = [0; 0x28];
    map[0x00..0x02].copy_from_slice(&micro.to_le_bytes());
    map[0x02] = minor;
    map[0x03] = major;
    map[0x08..0x10].copy_from_slice(&DOORBELLS.to_le_bytes());
    map[0x10..0x12].copy_from_slice(&(DOORBELL_PAGE_SIZE as u16).to_le_bytes());
    map[0x18..0x20].copy_from_slice(&SHARED_MEMORY.to_le_bytes());
    map[0x20..0x22].copy_from_slice(&(APERTURE as u16).to_le_bytes());
    map
}
