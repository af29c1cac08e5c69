//! The handlers of requests that are not specific to the NIC.

use alloc::string::String;

use device_kit::platform::{Level, Platform};
use mana_wire::gdma::{
    AddPagesReq, ChangeMsixReq, CreateDmaRegionReq, CreateQueueReq, CreateQueueResp, DEV_HWC,
    DEV_MANA, DisableQueueReq, DmaRegionHandle, GenerateResetEqeReq, GenerateTestEqeReq,
    HwcTimeout, ListDevicesResp, MaxResourcesResp, PROTOCOL_V1, Status, VerifyVersionReq,
    VerifyVersionResp, cap1,
};
use mana_wire::queue::{QueueType, eqe};

use super::channel::Channel;
use crate::gdma::Context;
use crate::gdma::ids::{CqId, EqId, RqId, SqId, WqId, parent_eq};
use crate::gdma::message::{Answer, Request};
use crate::gdma::queue::wq::Owner;
use crate::gdma::queues::Kind;
use crate::gdma::resources::{DOORBELL_PAGE, PDID};
use crate::limits::{MAX_CQS, MAX_EQS, MAX_VECTORS, MAX_WQS, Shape};

/// The longest timeout that a driver gets, in milliseconds.
pub(super) const MAX_TIMEOUT_MS: u32 = 120_000;

type Outcome = Result<(), Status>;

/// Handles `VERIFY_VF_DRIVER_VERSION`. `nic_caps` are the capabilities of the NIC.
pub fn verify_version(
    channel: &mut Channel,
    ctx: &mut Context<'_, impl Platform>,
    nic_caps: u64,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let req: VerifyVersionReq = request.body()?;
    if !(req.protocol_ver_min..=req.protocol_ver_max).contains(&PROTOCOL_V1) {
        return Err(Status::VersionMismatch);
    }
    let caps = cap1::HWC_TIMEOUT_RECONFIG | cap1::HW_VPORT_LINK_AWARE | nic_caps;
    answer.write(&VerifyVersionResp {
        protocol_ver: PROTOCOL_V1,
        pf_cap_flags: [caps, 0, 0, 0],
    });
    channel.driver_caps = req.drv_cap_flags[0];
    ctx.platform.log(
        Level::Info,
        format_args!(
            "driver: {} {} (type {:#x}), capabilities {:#x}",
            printable(&req.os_ver_str[0]),
            printable(&req.os_ver_str[1]),
            req.os_type,
            req.drv_cap_flags[0],
        ),
    );
    Ok(())
}

/// Returns the printable characters of a NUL-terminated text from the driver.
fn printable(bytes: &[u8; 128]) -> String {
    let text = bytes.iter().take_while(|byte| **byte != 0);
    text.map(|byte| match byte {
        b' ' | b'!'..=b'~' => char::from(*byte),
        _ => '?',
    })
    .collect()
}

/// Handles `QUERY_MAX_RESOURCES`.
pub fn query_max_resources(answer: &mut Answer<'_>) -> Outcome {
    answer.write(&MaxResourcesResp {
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
    });
    Ok(())
}

/// Handles `LIST_DEVICES`: returns as many of the 64 slots as the driver has room for.
pub fn list_devices(answer: &mut Answer<'_>) -> Outcome {
    let mut resp = ListDevicesResp {
        num_of_devs: 2,
        reserved: 0,
        devs: [Default::default(); 64],
    };
    resp.devs[0] = DEV_HWC;
    resp.devs[1] = DEV_MANA;
    answer.write(&resp);
    Ok(())
}

/// Handles `GENERATE_TEST_EQE`.
pub fn generate_test_eqe(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Outcome {
    let req: GenerateTestEqeReq = request.body()?;
    let eq = EqId(req.queue_index);
    ctx.queues
        .post_event(ctx.platform, eq, eqe::TEST_EVENT, [0; 3])
}

/// Handles `GENERATE_RESET_REQUEST_EQE`.
pub fn generate_reset_eqe(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Outcome {
    let req: GenerateResetEqeReq = request.body()?;
    let (eq, details) = (EqId(req.queue_index), [req.data, 0, 0]);
    ctx.queues
        .post_event(ctx.platform, eq, eqe::HWC_RESET_REQUEST, details)
}

/// Handles `CREATE_QUEUE`.
pub fn create_queue(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let req: CreateQueueReq = request.body()?;
    let queue_type = QueueType::from_wire(req.queue_type).ok_or(Status::InvalidParameter)?;
    let is_registered = ctx.registration.is_registered();
    if req.pdid != PDID || req.doorbell_id != DOORBELL_PAGE || !is_registered {
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
    let (queues, platform) = (&mut *ctx.queues, &mut *ctx.platform);
    let queue_index = match kind {
        Kind::Sq => queues.create_sq(platform, pages).0,
        Kind::Rq => queues.create_rq(platform, pages).0,
        Kind::Cq(eq) => queues.create_cq(platform, eq, pages).0,
        Kind::Eq(vector) => queues.create_eq(platform, vector, pages).0,
    };
    answer.write(&CreateQueueResp { queue_index });
    Ok(())
}

/// Handles `DISABLE_QUEUE`, which is refused for queues of the channel or of an object.
pub fn disable_queue(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Outcome {
    let req: DisableQueueReq = request.body()?;
    let queue_type = QueueType::from_wire(req.queue_type).ok_or(Status::InvalidParameter)?;
    let id = req.queue_index;
    let wq = match queue_type {
        QueueType::Sq => ctx.queues.wq(WqId::Sq(SqId(id))),
        QueueType::Rq => ctx.queues.wq(WqId::Rq(RqId(id))),
        // `destroy` refuses an event queue that completion queues report to.
        QueueType::Cq | QueueType::Eq => None,
    };
    let is_owned = wq.is_some_and(|wq| wq.owner != Owner::Nobody);
    let cq = ctx
        .queues
        .cq(CqId(id))
        .filter(|_| queue_type == QueueType::Cq);
    let is_used = is_owned || cq.is_some_and(|cq| cq.is_used);
    if is_used {
        return Err(Status::Busy);
    }
    ctx.queues
        .destroy(ctx.platform, ctx.regions, queue_type, id)
}

/// Handles `CREATE_DMA_REGION`.
pub fn create_dma_region(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let (req, pages) = request.body_and_pages(|req: &CreateDmaRegionReq| req.page_addr_list_len)?;
    if req.gdma_page_type != 0 {
        return Err(Status::InvalidParameter);
    }
    let shape = Shape {
        length: req.length,
        offset_in_page: req.offset_in_page,
        page_count: req.page_count,
    };
    let created = ctx.regions.create(ctx.platform, shape, &pages)?;
    answer.write(&DmaRegionHandle {
        dma_region_handle: created.handle,
    });
    complete_or_more(created.is_complete)
}

/// Handles `DMA_REGION_ADD_PAGES`.
pub fn add_pages(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Outcome {
    let (req, pages) = request.body_and_pages(|req: &AddPagesReq| req.page_addr_list_len)?;
    let handle = req.dma_region_handle;
    complete_or_more(ctx.regions.add_pages(ctx.platform, handle, &pages)?)
}

fn complete_or_more(is_complete: bool) -> Outcome {
    if is_complete {
        Ok(())
    } else {
        Err(Status::MoreEntries)
    }
}

/// Handles `DESTROY_DMA_REGION`.
pub fn destroy_dma_region<P>(ctx: &mut Context<'_, P>, request: &Request<'_>) -> Outcome {
    let req: DmaRegionHandle = request.body()?;
    ctx.regions.destroy(req.dma_region_handle)
}

/// Handles `CHANGE_MSIX_FOR_EQ`.
pub fn change_msix<P>(ctx: &mut Context<'_, P>, request: &Request<'_>) -> Outcome {
    let req: ChangeMsixReq = request.body()?;
    ctx.queues.move_eq(EqId(req.queue_index), req.msix)
}

/// Handles `QUERY_HWC_TIMEOUT`, which also sets the timeout unless it is 0.
pub fn query_hwc_timeout(
    channel: &mut Channel,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let req: HwcTimeout = request.body()?;
    let wanted = match req.timeout_ms {
        0 => channel.timeout_ms,
        wanted => wanted,
    };
    let resp = HwcTimeout {
        timeout_ms: wanted.min(MAX_TIMEOUT_MS),
        reserved: 0,
    };
    answer.write(&resp);
    channel.timeout_ms = resp.timeout_ms;
    Ok(())
}
