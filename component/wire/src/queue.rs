//! WQEs, CQEs, events and doorbells.
//!
//! Source: `include/net/mana/gdma.h`.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a guest page; queues consist of whole pages (`MANA_PAGE_SIZE`).
pub const PAGE_SIZE: u32 = 4096;
/// The unit that the length of a WQE is a multiple of, in bytes
/// (`GDMA_WQE_BU_SIZE`).
pub const WQE_UNIT: u32 = 32;
/// `GDMA_MAX_SQE_SIZE`.
pub const MAX_SQE_SIZE: u32 = 512;
/// `GDMA_MAX_RQE_SIZE`.
pub const MAX_RQE_SIZE: u32 = 256;
/// `GDMA_CQE_SIZE`.
pub const CQE_SIZE: u32 = 64;
/// `GDMA_EQE_SIZE`.
pub const EQE_SIZE: u32 = 16;
/// Bits of the owner count (`GDMA_CQE_OWNER_BITS`, `GDMA_EQE_OWNER_BITS`).
pub const OWNER_BITS: u32 = 3;

/// `enum gdma_queue_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueType {
    Sq,
    Rq,
    Cq,
    Eq,
}

impl QueueType {
    /// Returns the type with this number.
    pub fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Sq,
            2 => Self::Rq,
            3 => Self::Cq,
            4 => Self::Eq,
            _ => return None,
        })
    }

    /// Returns the number of the type.
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Sq => 1,
            Self::Rq => 2,
            Self::Cq => 3,
            Self::Eq => 4,
        }
    }
}

/// `struct gdma_wqe`: the first 8 bytes of a WQE.
#[bitfield(u64)]
pub struct WqeHeader {
    #[bits(24)]
    __: u32,
    /// Length of the first SGE when it holds only headers.
    pub last_vbytes: u8,
    pub num_sge: u8,
    /// Length of the inline OOB in 4-byte words.
    #[bits(3)]
    pub inline_oob_size_div4: u8,
    /// The first SGE holds the packet's headers: large send.
    pub client_oob_in_sgl: bool,
    #[bits(4)]
    __: u8,
    /// Segment size of a large send, in bytes.
    #[bits(14)]
    pub client_data_unit: u16,
    #[bits(2)]
    __: u8,
}

/// Where the SGEs begin in units of 16 bytes, a hexadecimal digit for each
/// value of `inline_oob_size_div4`; 0 if the value is invalid.
const SGL_UNITS: u32 = 0x3200_0100;

/// The bits of a header that describe the layout of its WQE.
const SHAPE: u64 = WqeHeader::new()
    .with_num_sge(0xff)
    .with_inline_oob_size_div4(7)
    .with_client_oob_in_sgl(true)
    .into_bits();

impl WqeHeader {
    /// The header of the shortest WQE: one SGE and an inline OOB of 8 bytes, in
    /// one unit.
    pub const SHORT: Self = Self::new().with_num_sge(1).with_inline_oob_size_div4(2);

    /// Returns the length of the inline OOB in bytes; None if it is not one of
    /// `INLINE_OOB_SMALL_SIZE`, `INLINE_OOB_LARGE_SIZE` and 32.
    #[inline]
    pub fn oob_size(self) -> Option<u32> {
        match self.inline_oob_size_div4() {
            2 => Some(8),
            6 => Some(24),
            7 => Some(32),
            _ => None,
        }
    }

    /// Returns whether the WQE is one unit with an inline OOB of 8 bytes and one SGE.
    #[inline]
    pub fn is_short(self) -> bool {
        self.into_bits() & SHAPE == Self::SHORT.into_bits()
    }

    /// Returns whether the length of the inline OOB is valid.
    #[inline]
    pub fn is_known(self) -> bool {
        self.sgl_units() != 0
    }

    /// Returns where the SGEs begin: after header and OOB, at the next multiple of 16.
    #[inline]
    pub fn sgl_offset(self) -> u32 {
        16 * self.sgl_units().max(1)
    }

    #[inline]
    fn sgl_units(self) -> u32 {
        let code = (self.into_bits() >> 40) as u32 & 7;
        SGL_UNITS >> (4 * code) & 0xf
    }

    /// Returns the number of SGEs. Unlike the generated getter, it is inlined into other
    /// crates.
    #[inline]
    pub fn sges(self) -> u32 {
        (self.into_bits() >> 32) as u32 & 0xff
    }

    /// Returns the length of the whole WQE in bytes, a multiple of [`WQE_UNIT`].
    #[inline]
    pub fn size(self) -> u32 {
        (self.sgl_offset() + 16 * self.sges()).next_multiple_of(WQE_UNIT)
    }
}

/// `struct gdma_sge`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sge {
    pub address: u64,
    pub mem_key: u32,
    pub size: u32,
}

/// The last 4 bytes of a CQE (`struct gdma_cqe`).
#[bitfield(u32)]
pub struct CqeInfo {
    #[bits(24)]
    pub wq_num: u32,
    pub is_sq: bool,
    #[bits(4)]
    __: u8,
    #[bits(3)]
    pub owner: u8,
}

impl CqeInfo {
    /// Returns the last 4 bytes of a CQE about a queue whose id has 24 bits.
    #[inline]
    pub fn of(wq_num: u32, is_sq: bool, owner: u8) -> Self {
        Self::from_bits(wq_num & 0xff_ffff | u32::from(is_sq) << 24 | u32::from(owner) << 29)
    }
}

/// The last 4 bytes of an event (`union gdma_eqe_info`).
#[bitfield(u32)]
pub struct EqeInfo {
    pub event_type: u8,
    __: u8,
    #[bits(2)]
    pub client_id: u8,
    #[bits(11)]
    __: u16,
    #[bits(3)]
    pub owner: u8,
}

/// `enum gdma_eqe_type`.
pub mod eqe {
    pub const COMPLETION: u8 = 3;
    pub const TEST_EVENT: u8 = 64;
    pub const HWC_INIT_EQ_ID_DB: u8 = 129;
    pub const HWC_INIT_DATA: u8 = 130;
    pub const HWC_INIT_DONE: u8 = 131;
    pub const HWC_SOC_RECONFIG_DATA: u8 = 133;
    pub const HWC_RESET_REQUEST: u8 = 135;
}

/// Offsets inside a doorbell page (`mana_gd_ring_doorbell`).
pub mod doorbell {
    pub const SQ: u64 = 0;
    pub const RQ: u64 = 0x400;
    /// Announces client data of a receive queue; carries no work.
    pub const RQ_CLIENT_DATA: u64 = 0x408;
    pub const CQ: u64 = 0x800;
    /// Sets the moderation of a completion queue.
    pub const DIM: u64 = 0x820;
    pub const EQ: u64 = 0xff8;
}

/// A doorbell of a work queue (`union gdma_doorbell_entry`).
#[bitfield(u64)]
pub struct WqDoorbell {
    #[bits(24)]
    pub id: u32,
    pub wqe_count: u8,
    /// Bytes posted so far, modulo 2^32.
    pub tail: u32,
}

/// A doorbell of a completion queue or (with a 16-bit id) an event queue.
#[bitfield(u64)]
pub struct RingDoorbell {
    #[bits(24)]
    pub id: u32,
    __: u8,
    /// Entries consumed so far, modulo the number of entries times 8.
    #[bits(31)]
    pub tail: u32,
    pub arm: bool,
}

/// The most completions that a driver asks to gather (`MANA_INTR_MODR_COMP_MAX`).
pub const MAX_MODERATION_COMPLETIONS: u8 = u8::MAX;
/// The longest that a driver asks to wait, in microseconds (`MANA_INTR_MODR_USEC_MAX`).
pub const MAX_MODERATION_USEC: u16 = (1 << 10) - 1;

/// A doorbell that sets the moderation of a completion queue (`mana_gd_ring_dim`).
#[bitfield(u64)]
pub struct DimDoorbell {
    #[bits(24)]
    pub id: u32,
    __: u8,
    /// Microseconds.
    #[bits(10)]
    pub usec: u16,
    #[bits(5)]
    __: u8,
    /// Whether the microseconds are to be set.
    pub is_usec_valid: bool,
    pub completions: u8,
    #[bits(7)]
    __: u8,
    /// Whether the completions are to be set.
    pub are_completions_valid: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wqe_header_matches_the_driver() {
        // num_sge 3, OOB of 24 bytes, large send with 1448-byte segments.
        let header = WqeHeader::new()
            .with_last_vbytes(54)
            .with_num_sge(3)
            .with_inline_oob_size_div4(6)
            .with_client_oob_in_sgl(true)
            .with_client_data_unit(1448);
        let flags = 3 | 6 << 8 | 1 << 11 | 1448 << 16;
        assert_eq!(header.into_bits(), u64::from(54u32 << 24) | flags << 32);
        assert_eq!((header.sgl_offset(), header.size()), (32, 96));
    }

    #[test]
    fn values_computed_from_bits_match_the_fields() {
        for code in 0..8 {
            for sges in [0, 1, 31, 255] {
                let header = WqeHeader::new()
                    .with_inline_oob_size_div4(code)
                    .with_num_sge(sges)
                    .with_client_data_unit(0x3fff);
                let begin = (8 + header.oob_size().unwrap_or(8)).next_multiple_of(16);
                assert_eq!(header.is_known(), header.oob_size().is_some());
                assert_eq!(header.sgl_offset(), begin);
                assert_eq!(header.sges(), u32::from(sges));
                assert_eq!(header.is_short(), (code, sges) == (2, 1));
                assert!(!header.with_client_oob_in_sgl(true).is_short());
            }
        }
        let info = CqeInfo::new()
            .with_wq_num(0xab_cdef)
            .with_is_sq(true)
            .with_owner(5);
        assert_eq!(
            CqeInfo::of(0xab_cdef, true, 5).into_bits(),
            info.into_bits()
        );
    }

    #[test]
    fn entry_sizes() {
        let size = |oob, sges| {
            WqeHeader::new()
                .with_inline_oob_size_div4(oob)
                .with_num_sge(sges)
                .size()
        };
        assert_eq!(size(2, 1), 32);
        assert_eq!(size(2, 2), 64);
        assert_eq!(size(6, 1), 64);
        assert_eq!(size(7, 1), 64);
        assert_eq!(size(2, 31), MAX_SQE_SIZE);
        assert_eq!(size(2, 15), MAX_RQE_SIZE);
    }

    #[test]
    fn doorbells_match_the_driver() {
        let cq = RingDoorbell::from_bits(0x8000_0123_0000_0007);
        assert_eq!((cq.id(), cq.tail(), cq.arm()), (7, 0x123, true));
        let sq = WqDoorbell::from_bits(0xffff_ffe0_0012_3456);
        assert_eq!(
            (sq.id(), sq.wqe_count(), sq.tail()),
            (0x12_3456, 0, 0xffff_ffe0)
        );
        let dim = DimDoorbell::from_bits(1 << 63 | 0x20 << 48 | 1 << 47 | 0x3e8 << 32 | 7);
        assert_eq!((dim.id(), dim.usec(), dim.completions()), (7, 1000, 32));
        assert!(dim.is_usec_valid() && dim.are_completions_valid());
    }
}
