//! Messages of the basic NIC.
//!
//! Source: `include/net/mana/mana.h`; the VTL2 commands are those of OpenVMM's
//! `gdma_defs::bnic`. Moderation came with Linux's commit 433f482add31, "net: mana: Add
//! Interrupt Moderation support" (netdev, Message-ID
//! 20260604234211.2056341-1-haiyangz@linux.microsoft.com is its second version).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `enum mana_command_code`.
pub mod code {
    pub const QUERY_DEV_CONFIG: u32 = 0x20001;
    /// `MANA_QUERY_GF_STAT` in Linux.
    pub const QUERY_STATS: u32 = 0x20002;
    pub const CONFIG_VPORT_TX: u32 = 0x20003;
    pub const CREATE_WQ_OBJ: u32 = 0x20004;
    pub const DESTROY_WQ_OBJ: u32 = 0x20005;
    pub const FENCE_RQ: u32 = 0x20006;
    pub const CONFIG_VPORT_RX: u32 = 0x20007;
    pub const QUERY_VPORT_CONFIG: u32 = 0x20008;
    pub const QUERY_LINK_CONFIG: u32 = 0x2000a;
    pub const SET_BW_CLAMP: u32 = 0x2000b;
    pub const QUERY_PHY_STAT: u32 = 0x2000c;
    pub const VTL2_ASSIGN_SERIAL_NUMBER: u32 = 0x27801;
    pub const VTL2_MOVE_FILTER: u32 = 0x27802;
    pub const VTL2_QUERY_FILTER_STATE: u32 = 0x27803;
}

/// The device can report which side a filter is on (`pf_cap_flags1`).
pub const CAP_FILTER_STATE: u64 = 1 << 2;

/// `INVALID_MANA_HANDLE`.
pub const INVALID_HANDLE: u64 = u64::MAX;
/// `GDMA_CQ_NO_EQ`: a completion queue without an event queue.
pub const NO_EQ: u32 = 0xffff;
/// Entries of the indirection table (`MANA_INDIRECT_TABLE_DEF_SIZE`).
pub const INDIRECTION_ENTRIES: u16 = 64;
/// `MANA_HASH_KEY_SIZE`.
pub const HASH_KEY_SIZE: usize = 40;

/// `struct mana_query_device_cfg_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryDevConfigReq {
    pub drv_cap_flags: [u64; 4],
    pub proto_ver: [u32; 3],
    pub reserved: u32,
}

/// `struct mana_query_device_cfg_resp`, version 3 (the newest). Version 1 ends
/// after `max_num_eqs`; the rest came with version 2.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryDevConfigResp {
    pub pf_cap_flags: [u64; 4],
    pub max_num_vports: u16,
    /// Version 3: bare-metal host mode.
    pub bm_hostmode: u8,
    pub reserved: u8,
    pub max_num_eqs: u32,
    /// Version 2: largest frame without a tag, in bytes.
    pub adapter_mtu: u16,
    pub reserved2: u16,
    /// Version 2.
    pub adapter_link_speed_mbps: u32,
}

/// `struct mana_query_vport_cfg_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryVportConfigReq {
    pub vport_index: u32,
}

/// `struct mana_query_vport_cfg_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryVportConfigResp {
    pub max_num_sq: u32,
    pub max_num_rq: u32,
    pub num_indirection_ent: u32,
    pub reserved1: u32,
    pub mac_addr: [u8; 6],
    pub reserved2: [u8; 2],
    pub vport: u64,
}

/// `struct mana_config_vport_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigVportTxReq {
    pub vport: u64,
    pub pdid: u32,
    pub doorbell_pageid: u32,
}

/// `struct mana_config_vport_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigVportTxResp {
    pub tx_vport_offset: u16,
    pub short_form_allowed: u8,
    pub reserved: u8,
}

/// `struct mana_create_wqobj_req`, version 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateWqObjReq {
    pub vport: u64,
    pub wq_type: u32,
    pub reserved: u32,
    pub wq_gdma_region: u64,
    pub cq_gdma_region: u64,
    /// In bytes.
    pub wq_size: u32,
    /// In bytes.
    pub cq_size: u32,
    pub cq_moderation_ctx_id: u32,
    pub cq_parent_qid: u32,
}

/// What versions 2 and 3 of `struct mana_create_wqobj_req` have after version 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateWqObjMore {
    /// Version 2: a receive buffer may consist of several WQEs.
    pub allow_rqwqe_chain: u8,
    /// Version 3, like all that follows: whether the completion queue's interrupts are to
    /// be moderated.
    pub req_cq_moderation: u8,
    pub cq_moderation_comp: u16,
    /// In microseconds.
    pub cq_moderation_usec: u16,
    pub reserved2: [u8; 2],
}

/// `struct mana_create_wqobj_resp`, version 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateWqObjResp {
    pub wq_id: u32,
    pub cq_id: u32,
    pub wq_obj: u64,
}

/// `struct mana_create_wqobj_resp`, version 2 (the newest): the moderation that is in
/// effect follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateWqObjRespV2 {
    pub first: CreateWqObjResp,
    pub cq_moderation_comp: u16,
    /// In microseconds.
    pub cq_moderation_usec: u16,
    pub cq_moderation_enabled: u8,
    pub reserved1: [u8; 3],
}

/// `struct mana_destroy_wqobj_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DestroyWqObjReq {
    pub wq_type: u32,
    pub reserved: u32,
    pub wq_obj_handle: u64,
}

/// `struct mana_fence_rq_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FenceRqReq {
    pub wq_obj_handle: u64,
}

/// `struct mana_cfg_rx_steer_req_v2` up to the hash key; version 1 ends here,
/// later versions append fields. `indir_tab_offset` counts from the beginning
/// of the message.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigVportRxReq {
    pub vport: u64,
    pub num_indir_entries: u16,
    pub indir_tab_offset: u16,
    pub rx_enable: u32,
    pub rss_enable: u32,
    pub update_default_rxobj: u8,
    pub update_hashkey: u8,
    pub update_indir_tab: u8,
    pub reserved: u8,
    pub default_rxobj: u64,
    pub hashkey: [u8; HASH_KEY_SIZE],
}

/// What version 2 of the request has after the hash key. Newer versions define more
/// of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigVportRxMore {
    /// Packets that were received together may share a completion.
    pub cqe_coalescing_enable: u8,
    pub reserved: [u8; 7],
}

/// `struct mana_cfg_rx_steer_resp`, version 2 (the newest). Version 1 has no body.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigVportRxResp {
    /// How long a packet may wait for others to share its completion.
    pub cqe_coalescing_timeout_ns: u32,
    pub reserved1: u32,
}

/// `struct mana_query_link_config_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryLinkConfigReq {
    pub vport: u64,
}

/// `struct mana_query_link_config_resp`, version 2 (the newest). Version 1 ends
/// after `reserved1`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryLinkConfigResp {
    /// The highest speed that the vport can be set to.
    pub qos_speed_mbps: u32,
    /// Not 0 if there is no such limit, which Linux treats as an error
    /// (`mana_query_link_cfg`).
    pub qos_unconfigured: u8,
    pub reserved1: [u8; 3],
    /// Version 2: what the vport may send; the link's speed unless it is clamped.
    pub link_speed_mbps: u32,
    pub reserved2: [u8; 4],
}

/// `struct mana_set_bw_clamp_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SetBwClampReq {
    pub vport: u64,
    pub enable_clamping: u32,
    pub link_speed_mbps: u32,
}

/// `struct mana_set_bw_clamp_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SetBwClampResp {
    pub qos_unconfigured: u8,
    pub reserved: [u8; 7],
}

/// `struct mana_query_phy_stat_req`, about the whole function.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryPhyStatsReq {
    /// Bit n asks for field n of [`PhyStats`]; Linux leaves it 0 and accepts
    /// all.
    pub req_stats: u64,
}

/// Counters of `struct mana_query_phy_stat_resp`, in its order; a pair is receive,
/// then transmit.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PhyStats {
    pub rx_pkt_drop_phy: u64,
    pub tx_pkt_drop_phy: u64,
    /// By traffic class.
    pub pkts: [[u64; 2]; 8],
    pub bytes: [[u64; 2]; 8],
    pub pauses: [[u64; 2]; 8],
}

/// The fields of [`PhyStats`] that a link without traffic classes has.
pub const PHY_STATS: u64 = 0b11 | 0b11 << 2 | 0b11 << 18;

/// `struct mana_query_phy_stat_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryPhyStatsResp {
    pub reported_stats: u64,
    pub stats: PhyStats,
}

/// Decodes `enum TRI_STATE`: leave as it is, false, or true.
pub fn tri_state(value: u32) -> Result<Option<bool>, u32> {
    match value {
        0 => Ok(Some(false)),
        1 => Ok(Some(true)),
        u32::MAX => Ok(None),
        other => Err(other),
    }
}

/// Request of `VTL2_QUERY_FILTER_STATE`. It names a vport by its handle, or by
/// its index as OpenVMM's driver does.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryFilterStateReq {
    pub vport: u64,
}

/// Response of `VTL2_QUERY_FILTER_STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryFilterStateResp {
    pub direction_to_vtl0: u8,
    pub reserved: [u8; 7],
}

/// Request of `VTL2_MOVE_FILTER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MoveFilterReq {
    pub vport: u64,
    pub direction_to_vtl0: u8,
    pub reserved: [u8; 7],
}

/// Request of `VTL2_ASSIGN_SERIAL_NUMBER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AssignSerialNumberReq {
    pub vport: u64,
    pub serial_no: u32,
    pub reserved: u32,
}

/// `struct mana_query_gf_stat_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryStatsReq {
    /// Bit n asks for field n of [`Stats`].
    pub req_stats: u64,
}

/// Counters of `struct mana_query_gf_stat_resp`, in its order. Field n is
/// reported by bit n of `reported_stats` (`STATISTICS_FLAGS_*`), except that
/// multicast and broadcast fields are in the opposite order of their flags in
/// Linux; all are always reported together.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Stats {
    pub rx_discards_nowqe: u64,
    pub rx_err_vport_disabled: u64,
    pub rx_bytes: u64,
    pub rx_ucast_pkts: u64,
    pub rx_ucast_bytes: u64,
    pub rx_bcast_pkts: u64,
    pub rx_bcast_bytes: u64,
    pub rx_mcast_pkts: u64,
    pub rx_mcast_bytes: u64,
    pub tx_err_gf_disabled: u64,
    pub tx_err_vport_disabled: u64,
    pub tx_err_inval_vport_offset: u64,
    pub tx_err_vlan_enforcement: u64,
    pub tx_err_ethtype_enforcement: u64,
    pub tx_err_sa_enforcement: u64,
    pub tx_err_sqpdid_enforcement: u64,
    pub tx_err_cqpdid_enforcement: u64,
    pub tx_err_mtu_violation: u64,
    pub tx_err_inval_oob: u64,
    pub tx_bytes: u64,
    pub tx_ucast_pkts: u64,
    pub tx_ucast_bytes: u64,
    pub tx_bcast_pkts: u64,
    pub tx_bcast_bytes: u64,
    pub tx_mcast_pkts: u64,
    pub tx_mcast_bytes: u64,
    pub tx_err_gdma: u64,
}

/// `struct mana_query_gf_stat_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueryStatsResp {
    pub reported_stats: u64,
    pub stats: Stats,
}

/// Every flag of `STATISTICS_FLAGS_*`, one for each field of [`Stats`].
pub const ALL_STATS: u64 = (1 << (size_of::<Stats>() / 8)) - 1;
