//! Requests over the hardware channel that are not specific to the NIC.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::bnic::{self, MANA_DOORBELL, MANA_MEM_KEY, MANA_PDID};
use crate::gdma::queues::{Kind, MAX_CQS, MAX_EQS, MAX_VECTORS, MAX_WQS};
use crate::gdma::regions::Shape;
use crate::gdma::wq::Client;
use crate::hwc::{Channel, Context};
use device_kit::platform::{Level, Platform};
use mana_wire::bnic::NO_EQ;
use mana_wire::gdma::{
    AddPagesReq, ChangeMsixReq, CreateDmaRegionReq, CreateQueueReq, CreateQueueResp, DEV_HWC,
    DEV_MANA, DisableQueueReq, DmaRegionHandle, GenerateResetEqeReq, GenerateTestEqeReq,
    HwcTimeout, ListDevicesResp, MaxResourcesResp, PROTOCOL_V1, RegisterDeviceResp, ReqHeader,
    Status, VerifyVersionReq, VerifyVersionResp, cap1, code,
};
use mana_wire::queue::{QueueType, eqe};

/// Longest time that a driver is told to wait for an answer.
const MAX_TIMEOUT_MS: u32 = 120_000;

/// A request, copied out of guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its header.
    pub header: ReqHeader,
    /// All of it, header included.
    pub message: &'a [u8],
}

impl<'a> Request<'a> {
    /// Checks the header against what was received.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub fn new(header: ReqHeader, received: &'a [u8]) -> Result<Self, Status> {
        let size = header.req.msg_size as usize;
        if size < size_of::<ReqHeader>() {
            return Err(Status::TooShort);
        }
        let message = received.get(..size).ok_or(Status::TooShort)?;
        if header.req.hdr_type != 0 {
            return Err(Status::InvalidParameter);
        }
        if header.req.msg_version == 0 || header.resp.msg_version == 0 {
            return Err(Status::VersionMismatch);
        }
        Ok(Self { header, message })
    }

    /// The fixed part of the body.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if the message ends before it does.
    pub fn body<T: FromBytes>(&self) -> Result<T, Status> {
        self.body_and_rest().map(|(body, _)| body)
    }

    /// The fixed part of the body, and what follows it.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if the message ends before the fixed part does.
    pub fn body_and_rest<T: FromBytes>(&self) -> Result<(T, &'a [u8]), Status> {
        T::read_from_prefix(&self.message[size_of::<ReqHeader>()..]).map_err(|_| Status::TooShort)
    }

    fn body_and_pages<T: FromBytes>(
        &self,
        count: impl Fn(&T) -> u32,
    ) -> Result<(T, Vec<u64>), Status> {
        let (body, rest) = self.body_and_rest::<T>()?;
        let length = (count(&body) as usize)
            .checked_mul(8)
            .ok_or(Status::TooShort)?;
        let bytes = rest.get(..length).ok_or(Status::TooShort)?;
        let (words, _) = bytes.as_chunks();
        Ok((
            body,
            words.iter().copied().map(u64::from_le_bytes).collect(),
        ))
    }
}

/// Writes a response's body: as much as the driver asked for, which is at
/// least `oldest` bytes of it, the oldest layout's length.
///
/// # Errors
///
/// [`Status::ResponseTooSmall`] if the driver asked for less.
pub fn respond<T: IntoBytes + Immutable>(
    body: &mut [u8],
    response: &T,
    oldest: usize,
) -> Result<(), Status> {
    check_room(body, oldest)?;
    let bytes = response.as_bytes();
    let length = bytes.len().min(body.len());
    body[..length].copy_from_slice(&bytes[..length]);
    Ok(())
}

/// Whether a response of at least `needed` bytes fits, to be checked before
/// anything changes.
///
/// # Errors
///
/// [`Status::ResponseTooSmall`] if not.
pub fn check_room(body: &[u8], needed: usize) -> Result<(), Status> {
    if body.len() < needed {
        Err(Status::ResponseTooSmall)
    } else {
        Ok(())
    }
}

/// Acts on a request and writes the response's body, which is zeroed. Returns
/// the version of the response.
///
/// # Errors
///
/// The status to answer with.
pub fn handle(
    channel: &mut Channel,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<u16, Status> {
    if request.header.req.msg_type >> 16 != 0 {
        return bnic::commands::handle(ctx, request, body);
    }
    match request.header.req.msg_type {
        code::VERIFY_VF_DRIVER_VERSION => verify_version(channel, ctx, request, body),
        code::QUERY_MAX_RESOURCES => query_max_resources(body),
        code::LIST_DEVICES => list_devices(body),
        code::REGISTER_DEVICE => register_device(ctx, request, body),
        code::DEREGISTER_DEVICE => deregister_device(ctx, request),
        code::GENERATE_TEST_EQE => generate_test_eqe(ctx, request),
        code::GENERATE_RESET_REQUEST_EQE => generate_reset_eqe(ctx, request),
        code::CREATE_QUEUE => create_queue(ctx, request, body),
        code::DISABLE_QUEUE => disable_queue(channel, ctx, request),
        code::CREATE_DMA_REGION => create_dma_region(ctx, request, body),
        code::DMA_REGION_ADD_PAGES => add_pages(ctx, request),
        code::DESTROY_DMA_REGION => destroy_dma_region(ctx, request),
        code::CHANGE_MSIX_FOR_EQ => change_msix(ctx, request),
        code::QUERY_HWC_TIMEOUT => query_hwc_timeout(channel, request, body),
        _ => Err(Status::Unsupported),
    }?;
    Ok(1)
}

/// Whether a request may change the configuration.
pub fn changes(msg_type: u32) -> bool {
    use mana_wire::bnic::code as nic_code;
    !matches!(
        msg_type,
        code::QUERY_MAX_RESOURCES
            | code::LIST_DEVICES
            | code::GENERATE_TEST_EQE
            | code::GENERATE_RESET_REQUEST_EQE
            | nic_code::QUERY_DEV_CONFIG
            | nic_code::QUERY_STATS
            | nic_code::QUERY_VPORT_CONFIG
            | nic_code::QUERY_LINK_CONFIG
            | nic_code::FENCE_RQ
            | nic_code::VTL2_QUERY_FILTER_STATE
    )
}

fn verify_version(
    channel: &mut Channel,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<(), Status> {
    let req: VerifyVersionReq = request.body()?;
    if !(req.protocol_ver_min..=req.protocol_ver_max).contains(&PROTOCOL_V1) {
        return Err(Status::VersionMismatch);
    }
    let resp = VerifyVersionResp {
        protocol_ver: PROTOCOL_V1,
        pf_cap_flags: [
            cap1::HWC_TIMEOUT_RECONFIG | cap1::HW_VPORT_LINK_AWARE,
            0,
            0,
            0,
        ],
    };
    respond(body, &resp, size_of_val(&resp))?;
    channel.driver_caps = req.drv_cap_flags[0];
    let text = |bytes: &[u8; 128]| -> Vec<u8> {
        let printable = bytes.iter().take_while(|b| **b != 0);
        printable
            .map(|b| {
                if b.is_ascii_graphic() || *b == b' ' {
                    *b
                } else {
                    b'?'
                }
            })
            .collect()
    };
    let (system, release) = (text(&req.os_ver_str[0]), text(&req.os_ver_str[1]));
    ctx.platform.log(
        Level::Info,
        format_args!(
            "driver: {} {} (type {:#x}), capabilities {:#x}",
            core::str::from_utf8(&system).unwrap_or_default(),
            core::str::from_utf8(&release).unwrap_or_default(),
            req.os_type,
            req.drv_cap_flags[0],
        ),
    );
    Ok(())
}

fn query_max_resources(body: &mut [u8]) -> Result<(), Status> {
    let resp = MaxResourcesResp {
        status: 0,
        max_sq: MAX_WQS as u32 - 1,
        max_rq: MAX_WQS as u32 - 1,
        max_cq: MAX_CQS as u32 - 1,
        max_eq: MAX_EQS as u32 - 1,
        max_db: 1,
        max_mst: 1,
        max_cq_mod_ctx: 0,
        max_mod_cq: 0,
        max_msix: MAX_VECTORS.into(),
    };
    respond(body, &resp, size_of_val(&resp))
}

fn list_devices(body: &mut [u8]) -> Result<(), Status> {
    let mut resp = ListDevicesResp {
        num_of_devs: 2,
        reserved: 0,
        devs: [Default::default(); 64],
    };
    resp.devs[0] = DEV_HWC;
    resp.devs[1] = DEV_MANA;
    // As many of the 64 places as the driver has room for.
    respond(body, &resp, 16)
}

fn register_device(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<(), Status> {
    if request.header.dev_id != DEV_MANA {
        return Err(Status::NoSuchDevice);
    }
    if ctx.nic.registered {
        return Err(Status::InvalidState);
    }
    let resp = RegisterDeviceResp {
        pdid: MANA_PDID,
        gpa_mkey: MANA_MEM_KEY,
        db_id: MANA_DOORBELL,
    };
    respond(body, &resp, size_of_val(&resp))?;
    ctx.nic.registered = true;
    Ok(())
}

fn deregister_device(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    if request.header.dev_id != DEV_MANA {
        return Err(Status::NoSuchDevice);
    }
    if !ctx.nic.registered {
        return Err(Status::InvalidState);
    }
    bnic::objects::destroy_all(ctx);
    ctx.nic.registered = false;
    Ok(())
}

fn generate_test_eqe(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    let req: GenerateTestEqeReq = request.body()?;
    ctx.queues
        .post_event(ctx.platform, req.queue_index, eqe::TEST_EVENT, [0; 3])
}

fn generate_reset_eqe(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    let req: GenerateResetEqeReq = request.body()?;
    let details = [req.data, 0, 0];
    ctx.queues.post_event(
        ctx.platform,
        req.queue_index,
        eqe::HWC_RESET_REQUEST,
        details,
    )
}

fn create_queue(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<(), Status> {
    let req: CreateQueueReq = request.body()?;
    check_room(body, size_of::<CreateQueueResp>())?;
    let queue_type = QueueType::from_wire(req.queue_type).ok_or(Status::InvalidParameter)?;
    if req.pdid != MANA_PDID || req.doorbell_id != MANA_DOORBELL || !ctx.nic.registered {
        return Err(Status::InvalidParameter);
    }
    let kind = match queue_type {
        QueueType::Sq => Kind::Sq,
        QueueType::Rq => Kind::Rq,
        QueueType::Cq => Kind::Cq(parent_eq(req.cq_parent_eq_id)),
        QueueType::Eq => {
            let vector = u16::try_from(req.eq_pci_msix_index);
            Kind::Eq(vector.map_err(|_| Status::InvalidParameter)?)
        }
    };
    ctx.queues.check(kind)?;
    let pages = ctx
        .regions
        .take_for_queue(req.gdma_region, req.queue_size)?;
    let id = ctx
        .queues
        .create(ctx.platform, kind, pages)
        .map_err(|(status, _)| status)?;
    respond(body, &CreateQueueResp { queue_index: id }, 0)
}

/// The event queue that a completion queue reports to, if any.
pub fn parent_eq(id: u32) -> Option<u32> {
    (id != NO_EQ).then_some(id)
}

fn disable_queue(
    channel: &Channel,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    let req: DisableQueueReq = request.body()?;
    let queue_type = QueueType::from_wire(req.queue_type).ok_or(Status::InvalidParameter)?;
    let id = req.queue_index;
    let client = match queue_type {
        QueueType::Sq => ctx.queues.sq(id).map(|wq| wq.client),
        QueueType::Rq => ctx.queues.rq(id).map(|wq| wq.client),
        QueueType::Cq | QueueType::Eq => None,
    };
    let in_use = matches!(client, Some(Client::Hwc | Client::Nic(_)))
        || channel.owns(queue_type, id)
        || (queue_type == QueueType::Cq && ctx.nic.uses_cq(id));
    if in_use {
        return Err(Status::Busy);
    }
    ctx.queues
        .destroy(ctx.platform, ctx.regions, queue_type, id)
}

fn create_dma_region(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<(), Status> {
    let (req, pages) = request.body_and_pages(|req: &CreateDmaRegionReq| req.page_addr_list_len)?;
    check_room(body, size_of::<DmaRegionHandle>())?;
    if req.gdma_page_type != 0 {
        return Err(Status::InvalidParameter);
    }
    let shape = Shape {
        length: req.length,
        offset_in_page: req.offset_in_page,
        page_count: req.page_count,
    };
    let (handle, complete) = ctx.regions.create(ctx.platform, shape, &pages)?;
    respond(
        body,
        &DmaRegionHandle {
            dma_region_handle: handle,
        },
        0,
    )?;
    if complete {
        Ok(())
    } else {
        Err(Status::MoreEntries)
    }
}

fn add_pages(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Result<(), Status> {
    let (req, pages) = request.body_and_pages(|req: &AddPagesReq| req.page_addr_list_len)?;
    let complete = ctx
        .regions
        .add_pages(ctx.platform, req.dma_region_handle, &pages)?;
    if complete {
        Ok(())
    } else {
        Err(Status::MoreEntries)
    }
}

fn destroy_dma_region(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    let req: DmaRegionHandle = request.body()?;
    ctx.regions.destroy(req.dma_region_handle)
}

fn change_msix(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Result<(), Status> {
    let req: ChangeMsixReq = request.body()?;
    let eq = ctx
        .queues
        .eq(req.queue_index)
        .ok_or(Status::InvalidHandle)?;
    let vector = u16::try_from(req.msix)
        .ok()
        .filter(|vector| *vector < MAX_VECTORS);
    eq.vector = vector.ok_or(Status::InvalidParameter)?;
    Ok(())
}

fn query_hwc_timeout(
    channel: &mut Channel,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<(), Status> {
    let req: HwcTimeout = request.body()?;
    let wanted = if req.timeout_ms == 0 {
        channel.timeout_ms
    } else {
        req.timeout_ms
    };
    let resp = HwcTimeout {
        timeout_ms: wanted.min(MAX_TIMEOUT_MS),
        reserved: 0,
    };
    respond(body, &resp, size_of_val(&resp))?;
    channel.timeout_ms = resp.timeout_ms;
    Ok(())
}

impl Channel {
    /// A driver did not get an answer in time: it should wait longer. Tells
    /// it, if it understands (`HWC_DATA_CFG_HWC_TIMEOUT`).
    pub fn extend_timeout(&mut self, ctx: &mut Context<'_, impl Platform>) {
        if self.driver_caps & cap1::HWC_TIMEOUT_RECONFIG == 0 {
            return;
        }
        self.timeout_ms = self.timeout_ms.saturating_mul(2).min(MAX_TIMEOUT_MS);
        self.reconfigure(ctx, mana_wire::hwc::reconfig::HWC_TIMEOUT, self.timeout_ms);
    }

    /// Asks the driver to reset the device.
    pub fn request_reset(&self, ctx: &mut Context<'_, impl Platform>) {
        self.post(ctx, eqe::HWC_RESET_REQUEST, 0);
        self.link_changed(ctx, false);
    }

    /// Tells a driver that understands it that a link went up or down.
    pub fn link_changed(&self, ctx: &mut Context<'_, impl Platform>, up: bool) {
        use mana_wire::hwc::reconfig;
        if self.driver_caps & cap1::HW_VPORT_LINK_AWARE != 0 {
            let kind = if up {
                reconfig::LINK_CONNECT
            } else {
                reconfig::LINK_DISCONNECT
            };
            self.reconfigure(ctx, kind, 0);
        }
    }

    fn reconfigure(&self, ctx: &mut Context<'_, impl Platform>, kind: u8, value: u32) {
        let data = mana_wire::hwc::TypeData::new()
            .with_kind(kind)
            .with_value(value);
        self.post(ctx, eqe::HWC_SOC_RECONFIG_DATA, data.into_bits());
    }
}
