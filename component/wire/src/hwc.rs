//! The hardware channel's own formats: initialisation events and the OOB of
//! its messages.
//!
//! Source: `include/net/mana/hw_channel.h`.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest message in either direction (`HW_CHANNEL_MAX_REQUEST_SIZE`).
pub const MAX_MESSAGE: u32 = 4096;

/// Kinds of `GDMA_EQE_HWC_INIT_DATA` (`HWC_INIT_DATA_*`).
pub mod init_data {
    pub const CQID: u8 = 1;
    pub const RQID: u8 = 2;
    pub const SQID: u8 = 3;
    pub const QUEUE_DEPTH: u8 = 4;
    pub const MAX_REQUEST: u8 = 5;
    pub const MAX_RESPONSE: u8 = 6;
    pub const MAX_NUM_CQS: u8 = 7;
    pub const PDID: u8 = 8;
    pub const GPA_MKEY: u8 = 9;
}

/// Kinds of `GDMA_EQE_HWC_SOC_RECONFIG_DATA` (`HWC_DATA_*`).
pub mod reconfig {
    pub const HWC_TIMEOUT: u8 = 1;
    pub const LINK_CONNECT: u8 = 2;
    pub const LINK_DISCONNECT: u8 = 3;
}

/// `union hwc_init_eq_id_db`.
#[bitfield(u32)]
pub struct InitEqIdDb {
    pub eq_id: u16,
    pub doorbell: u16,
}

/// `union hwc_init_type_data`.
#[bitfield(u32)]
pub struct TypeData {
    #[bits(24)]
    pub value: u32,
    pub kind: u8,
}

/// `struct hwc_tx_oob`: the queues of a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TxOob {
    pub reserved: [u32; 2],
    /// 24 bits of id, 8 of destination function.
    pub vrq: u32,
    /// 24 bits of id.
    pub vrcq: u32,
    /// 24 bits of id, then flags.
    pub vscq: u32,
    /// 24 bits of id.
    pub vsq: u32,
}

/// Mask of the id in a word of [`TxOob`].
pub const ID_MASK: u32 = 0xff_ffff;

/// `struct hwc_rx_oob`: the content of a response's completion.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RxOob {
    pub flags: [u32; 2],
    pub reserved: u32,
    /// Byte offset of the receive WQE that holds the response.
    pub wqe_offset: u32,
    pub wqe_addr_high: u32,
    pub client_data_unit: u32,
    /// Length of the response in bytes.
    pub tx_oob_data_size: u32,
    pub chunk_offset: u32,
}
