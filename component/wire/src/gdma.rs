//! Messages of the hardware channel that are not specific to the NIC.
//!
//! Source: `include/net/mana/gdma.h`; the codes that Linux does not use are
//! those of OpenVMM's `gdma_defs`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `enum gdma_request_type`.
pub mod code {
    pub const VERIFY_VF_DRIVER_VERSION: u32 = 1;
    pub const QUERY_MAX_RESOURCES: u32 = 2;
    pub const LIST_DEVICES: u32 = 3;
    pub const REGISTER_DEVICE: u32 = 4;
    pub const DEREGISTER_DEVICE: u32 = 5;
    pub const GENERATE_TEST_EQE: u32 = 10;
    /// Only in OpenVMM, which first named it `GDMA_GENERATE_RECONFIG_VF_EVENT`.
    pub const GENERATE_RESET_REQUEST_EQE: u32 = 11;
    pub const CREATE_QUEUE: u32 = 12;
    pub const DISABLE_QUEUE: u32 = 13;
    pub const CREATE_DMA_REGION: u32 = 25;
    pub const DMA_REGION_ADD_PAGES: u32 = 26;
    pub const DESTROY_DMA_REGION: u32 = 27;
    pub const CHANGE_MSIX_FOR_EQ: u32 = 81;
    pub const QUERY_HWC_TIMEOUT: u32 = 84;
}

/// Status of a response. The driver distinguishes 0, `GDMA_STATUS_MORE_ENTRIES`
/// and `GDMA_STATUS_CMD_UNSUPPORTED`. `GDMA_STATUS_MORE_ENTRIES` is an
/// NTSTATUS, and so are the others here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    Success = 0,
    /// The region needs more pages.
    MoreEntries = 0x0000_0105,
    /// `STATUS_DEVICE_BUSY`: in use by something else.
    Busy = 0x8000_0011,
    /// `STATUS_INFO_LENGTH_MISMATCH`: the message is shorter than its content.
    TooShort = 0xc000_0004,
    /// `STATUS_INVALID_HANDLE`.
    InvalidHandle = 0xc000_0008,
    /// `STATUS_INVALID_PARAMETER`.
    InvalidParameter = 0xc000_000d,
    /// `STATUS_BUFFER_TOO_SMALL`: the response does not fit.
    ResponseTooSmall = 0xc000_0023,
    /// `STATUS_REVISION_MISMATCH`.
    VersionMismatch = 0xc000_0059,
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    NoResources = 0xc000_009a,
    /// `STATUS_NO_SUCH_DEVICE`.
    NoSuchDevice = 0xc000_000e,
    /// `STATUS_INVALID_ADDRESS`: not guest memory.
    InvalidAddress = 0xc000_0141,
    /// `STATUS_INVALID_DEVICE_STATE`: not possible in this state.
    InvalidState = 0xc000_0184,
    /// `GDMA_STATUS_CMD_UNSUPPORTED`.
    Unsupported = 0xffff_ffff,
}

/// `struct gdma_msg_hdr`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct MsgHeader {
    pub hdr_type: u32,
    pub msg_type: u32,
    pub msg_version: u16,
    pub hwc_msg_id: u16,
    /// Length of the message including its header, in bytes.
    pub msg_size: u32,
}

/// `struct gdma_dev_id`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct DevId {
    pub device_type: u16,
    pub instance: u16,
}

/// The hardware channel (`GDMA_DEVICE_HWC`).
pub const DEV_HWC: DevId = DevId {
    device_type: 1,
    instance: 0,
};
/// The basic NIC (`GDMA_DEVICE_MANA`).
pub const DEV_MANA: DevId = DevId {
    device_type: 2,
    instance: 1,
};

/// `struct gdma_req_hdr`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ReqHeader {
    pub req: MsgHeader,
    /// The response that the driver expects.
    pub resp: MsgHeader,
    pub dev_id: DevId,
    pub activity_id: u32,
}

/// `struct gdma_resp_hdr`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct RespHeader {
    pub response: MsgHeader,
    pub dev_id: DevId,
    pub activity_id: u32,
    pub status: u32,
    pub reserved: u32,
}

/// Driver capabilities (`GDMA_DRV_CAP_FLAG_1_*`), also used for the device's, of which only
/// [`MODERATION`](cap1::MODERATION) has a bit of its own.
pub mod cap1 {
    pub const HWC_TIMEOUT_RECONFIG: u64 = 1 << 3;
    /// The driver uses an indirection table of the size that the device
    /// reports.
    pub const VARIABLE_INDIRECTION_TABLE: u64 = 1 << 5;
    pub const HW_VPORT_LINK_AWARE: u64 = 1 << 6;
    /// The device moderates interrupts as a driver says
    /// (`GDMA_PF_CAP_FLAG_1_DYN_INTERRUPT_MODERATION`).
    pub const MODERATION: u64 = 1 << 15;
    /// The driver says how interrupts are moderated
    /// (`GDMA_DRV_CAP_FLAG_1_DYN_INTERRUPT_MODERATION`).
    pub const DRIVER_MODERATION: u64 = 1 << 28;
}

/// `struct gdma_verify_ver_req`, up to the last field that the device uses.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VerifyVersionReq {
    pub protocol_ver_min: u64,
    pub protocol_ver_max: u64,
    pub drv_cap_flags: [u64; 4],
    pub drv_ver: u64,
    pub os_type: u32,
    pub reserved: u32,
    pub os_ver: [u32; 4],
    pub reserved2: u64,
    /// Four strings of 128 bytes, NUL-terminated.
    pub os_ver_str: [[u8; 128]; 4],
}

/// `GDMA_PROTOCOL_V1`, the only protocol.
pub const PROTOCOL_V1: u64 = 1;

/// `struct gdma_verify_ver_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VerifyVersionResp {
    pub protocol_ver: u64,
    pub pf_cap_flags: [u64; 4],
}

/// `struct gdma_query_max_resources_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MaxResourcesResp {
    pub status: u32,
    pub max_sq: u32,
    pub max_rq: u32,
    pub max_cq: u32,
    pub max_eq: u32,
    pub max_db: u32,
    pub max_mst: u32,
    pub max_cq_mod_ctx: u32,
    pub max_mod_cq: u32,
    pub max_msix: u32,
}

/// `struct gdma_list_devices_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ListDevicesResp {
    pub num_of_devs: u32,
    pub reserved: u32,
    pub devs: [DevId; 64],
}

/// `struct gdma_register_device_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RegisterDeviceResp {
    pub pdid: u32,
    pub gpa_mkey: u32,
    pub db_id: u32,
}

/// `struct gdma_generate_test_event_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GenerateTestEqeReq {
    pub queue_index: u32,
}

/// Request of `GENERATE_RESET_REQUEST_EQE`, an event on an event queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GenerateResetEqeReq {
    pub queue_index: u32,
    /// The event's first word.
    pub data: u32,
}

/// `struct gdma_create_queue_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateQueueReq {
    pub queue_type: u32,
    pub reserved1: u32,
    pub pdid: u32,
    pub doorbell_id: u32,
    pub gdma_region: u64,
    pub reserved2: u32,
    /// In bytes.
    pub queue_size: u32,
    pub log2_throttle_limit: u32,
    pub eq_pci_msix_index: u32,
    pub cq_mod_ctx_id: u32,
    pub cq_parent_eq_id: u32,
    pub flags: [u8; 4],
    pub reserved3: u32,
}

/// `struct gdma_create_queue_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateQueueResp {
    pub queue_index: u32,
}

/// `struct gdma_disable_queue_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DisableQueueReq {
    pub queue_type: u32,
    pub queue_index: u32,
    pub alloc_res_id_on_creation: u32,
}

/// Request of `CHANGE_MSIX_FOR_EQ`, which moves an event queue to another MSI-X
/// vector.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ChangeMsixReq {
    pub queue_index: u32,
    pub msix: u32,
    pub reserved: [u32; 2],
}

/// `struct gdma_query_hwc_timeout_req` and `_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HwcTimeout {
    pub timeout_ms: u32,
    pub reserved: u32,
}

/// `struct gdma_create_dma_region_req`; page addresses follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CreateDmaRegionReq {
    /// In bytes.
    pub length: u64,
    /// Offset of the region in its first page.
    pub offset_in_page: u32,
    /// 0: pages of 4 KiB (`GDMA_PAGE_TYPE_4K`).
    pub gdma_page_type: u32,
    /// Number of pages of the whole region.
    pub page_count: u32,
    /// Number of page addresses in this message.
    pub page_addr_list_len: u32,
}

/// `struct gdma_create_dma_region_resp`, and the body of
/// `struct gdma_destroy_dma_region_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DmaRegionHandle {
    pub dma_region_handle: u64,
}

/// `struct gdma_dma_region_add_pages_req`; page addresses follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddPagesReq {
    pub dma_region_handle: u64,
    pub page_addr_list_len: u32,
    pub reserved: u32,
}
