//! The handlers of the basic NIC's requests.

use device_kit::Platform;
use mana_wire::bnic::{
    ALL_STATS, AssignSerialNumberReq, CAP_FILTER_STATE, ConfigVportRxMore, ConfigVportRxReq,
    ConfigVportRxResp, ConfigVportTxReq, ConfigVportTxResp, CreateWqObjMore, CreateWqObjReq,
    CreateWqObjResp, CreateWqObjRespV2, DestroyWqObjReq, FenceRqReq, INDIRECTION_ENTRIES,
    MoveFilterReq, QueryDevConfigReq, QueryDevConfigResp, QueryFilterStateReq,
    QueryFilterStateResp, QueryStatsReq, QueryStatsResp, QueryVportConfigReq, QueryVportConfigResp,
    tri_state,
};
use mana_wire::gdma::{RegisterDeviceResp, Status, cap1};

use super::port::Port;
use super::{Nic, rx};
use crate::gdma::Context;
use crate::gdma::message::{Answer, Request};
use crate::gdma::queue::moderation::Moderation;
use crate::gdma::queue::wq::Direction;
use crate::gdma::resources::{DOORBELL_PAGE, MEM_KEY, PDID, Registration};
use crate::limits::{MAX_EQS, MAX_INDIRECTION_ENTRIES, TX_VPORT_OFFSET};

/// Oldest version of `VTL2_MOVE_FILTER`.
const MOVE_FILTER_VERSION: u16 = 2;
/// Sizes of `QUERY_DEV_CONFIG`'s response: version 1, then 2 and 3, which are equally
/// long.
pub const DEV_CONFIG_LAYOUTS: &[usize] = &[
    40,
    size_of::<QueryDevConfigResp>(),
    size_of::<QueryDevConfigResp>(),
];
/// Oldest version of `CONFIG_VPORT_RX` that says whether packets may share completions.
const COALESCING_VERSION: u16 = 2;
/// The time for which hardware delays a packet for others to share its completion. This
/// device delays none: packets that are received together share one.
const COALESCING_TIMEOUT_NS: u32 = 2048;
/// Sizes of `CONFIG_VPORT_RX`'s response, by version.
pub const CONFIG_VPORT_RX_LAYOUTS: &[usize] = &[0, size_of::<ConfigVportRxResp>()];

/// Oldest version of `CREATE_WQ_OBJ` that says how interrupts are moderated.
const MODERATION_VERSION: u16 = 3;
/// Sizes of `CREATE_WQ_OBJ`'s response, by version.
pub const CREATE_WQ_OBJ_LAYOUTS: &[usize] =
    &[size_of::<CreateWqObjResp>(), size_of::<CreateWqObjRespV2>()];

type Outcome = Result<(), Status>;

/// Handles `REGISTER_DEVICE`.
pub fn register_device<P>(ctx: &mut Context<'_, P>, answer: &mut Answer<'_>) -> Outcome {
    if ctx.registration.is_registered() {
        return Err(Status::InvalidState);
    }
    answer.write(&RegisterDeviceResp {
        pdid: PDID,
        gpa_mkey: MEM_KEY,
        db_id: DOORBELL_PAGE,
    });
    *ctx.registration = Registration::Registered;
    Ok(())
}

/// Handles `DEREGISTER_DEVICE`.
pub fn deregister_device(nic: &mut Nic, ctx: &mut Context<'_, impl Platform>) -> Outcome {
    nic.destroy_all(ctx);
    *ctx.registration = Registration::None;
    Ok(())
}

fn vport(nic: &Nic, handle: u64) -> Result<usize, Status> {
    nic.vport_index(handle).ok_or(Status::InvalidHandle)
}

/// Handles `QUERY_DEV_CONFIG`.
pub fn query_dev_config(nic: &Nic, request: &Request<'_>, answer: &mut Answer<'_>) -> Outcome {
    let _: QueryDevConfigReq = request.body()?;
    let ports = || nic.vports.iter().map(|vport| &vport.port);
    let frames = ports().map(|port| port.max_frame());
    let speeds = ports().map(|port| port.config.link_speed_mbps);
    answer.write(&QueryDevConfigResp {
        pf_cap_flags: [CAP_FILTER_STATE, 0, 0, 0],
        max_num_vports: nic.vports.len() as u16,
        bm_hostmode: 0,
        reserved: 0,
        max_num_eqs: MAX_EQS as u32 - 1,
        adapter_mtu: frames.min().unwrap_or_default(),
        reserved2: 0,
        adapter_link_speed_mbps: speeds.max().unwrap_or_default(),
    });
    Ok(())
}

/// Returns the number of entries of a vport's indirection table: 64, or with a driver
/// that supports any number, four for each queue if that is more, so that shares are
/// about equal.
fn indirection_entries(port: &Port, driver_caps: u64) -> u16 {
    if driver_caps & cap1::VARIABLE_INDIRECTION_TABLE == 0 {
        return INDIRECTION_ENTRIES;
    }
    let wanted = (4 * port.config.queues).next_power_of_two();
    wanted.clamp(INDIRECTION_ENTRIES, MAX_INDIRECTION_ENTRIES)
}

/// Handles `QUERY_VPORT_CONFIG`.
pub fn query_vport_config(
    nic: &Nic,
    driver_caps: u64,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let req: QueryVportConfigReq = request.body()?;
    let index = req.vport_index as usize;
    let port = nic.vports.get(index).map(|vport| &vport.port);
    let port = port.ok_or(Status::InvalidParameter)?;
    let resp = QueryVportConfigResp {
        max_num_sq: port.config.queues.into(),
        max_num_rq: port.config.queues.into(),
        num_indirection_ent: indirection_entries(port, driver_caps).into(),
        reserved1: 0,
        mac_addr: port.config.mac,
        reserved2: [0; 2],
        vport: Nic::vport_handle(index),
    };
    answer.write(&resp);
    Ok(())
}

/// Handles `CONFIG_VPORT_TX`.
pub fn config_vport_tx(nic: &mut Nic, request: &Request<'_>, answer: &mut Answer<'_>) -> Outcome {
    let req: ConfigVportTxReq = request.body()?;
    let index = vport(nic, req.vport)?;
    if req.pdid != PDID || req.doorbell_pageid != DOORBELL_PAGE {
        return Err(Status::InvalidParameter);
    }
    let resp = ConfigVportTxResp {
        tx_vport_offset: TX_VPORT_OFFSET,
        short_form_allowed: 1,
        reserved: 0,
    };
    answer.write(&resp);
    nic.vports[index].port.tx_enabled = true;
    Ok(())
}

/// Handles `CREATE_WQ_OBJ`. What a driver that does not moderate appends is ignored.
pub fn create_wq_obj(
    nic: &mut Nic,
    ctx: &mut Context<'_, impl Platform>,
    driver_caps: u64,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let moderation = match nic.moderates(driver_caps) {
        true => requested_moderation(request)?,
        false => None,
    };
    let req: CreateWqObjReq = request.body()?;
    let created = nic.create_object(ctx, &req, moderation)?;
    let Moderation { completions, usec } = moderation.unwrap_or_default();
    answer.write(&CreateWqObjRespV2 {
        first: CreateWqObjResp {
            wq_id: created.wq.number(),
            cq_id: created.cq.0,
            wq_obj: created.handle,
        },
        cq_moderation_comp: completions.into(),
        cq_moderation_usec: usec,
        cq_moderation_enabled: moderation.is_some().into(),
        reserved1: [0; 3],
    });
    Ok(())
}

/// Returns the moderation that a driver requests for a new completion queue, if it does.
fn requested_moderation(request: &Request<'_>) -> Result<Option<Moderation>, Status> {
    let (_, more): (CreateWqObjReq, Option<CreateWqObjMore>) =
        request.body_and_more(MODERATION_VERSION)?;
    let wanted = more.filter(|more| more.req_cq_moderation != 0);
    let bounded = |more: CreateWqObjMore| {
        Moderation::within_bounds(more.cq_moderation_comp, more.cq_moderation_usec)
    };
    Ok(wanted.map(bounded))
}

/// Handles `DESTROY_WQ_OBJ`.
pub fn destroy_wq_obj(
    nic: &mut Nic,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Outcome {
    let req: DestroyWqObjReq = request.body()?;
    nic.destroy_object(ctx, req.wq_obj_handle, req.wq_type)
}

/// Handles `FENCE_RQ`.
pub fn fence_rq(
    nic: &mut Nic,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Outcome {
    let req: FenceRqReq = request.body()?;
    let key = nic.object(req.wq_obj_handle).ok_or(Status::InvalidHandle)?;
    if key.direction != Direction::Receive {
        return Err(Status::InvalidParameter);
    }
    let queues = &nic.vports[usize::from(key.vport)].receive;
    let queue = queues[usize::from(key.queue)].as_ref();
    rx::fence(ctx, queue.expect("a receive queue by its key"))
}

/// Handles `CONFIG_VPORT_RX`, which is checked as a whole before anything changes.
pub fn config_vport_rx(
    nic: &mut Nic,
    ctx: &mut Context<'_, impl Platform>,
    driver_caps: u64,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    let (req, more): (ConfigVportRxReq, Option<ConfigVportRxMore>) =
        request.body_and_more(COALESCING_VERSION)?;
    let index = vport(nic, req.vport)?;
    let enable = tri_state(req.rx_enable).map_err(|_| Status::InvalidParameter)?;
    let rss = tri_state(req.rss_enable).map_err(|_| Status::InvalidParameter)?;

    let mut steering = nic.vports[index].port.steering.clone();
    if req.update_default_rxobj != 0 {
        check_receive_object(nic, index, req.default_rxobj)?;
        steering.default_object = Some(req.default_rxobj);
    }
    if req.update_hashkey != 0 {
        steering.hash_key = req.hashkey;
    }
    if req.update_indir_tab != 0 {
        let entries = req.num_indir_entries;
        let most = indirection_entries(&nic.vports[index].port, driver_caps);
        let is_aligned = usize::from(req.indir_tab_offset).is_multiple_of(align_of::<u64>());
        if !entries.is_power_of_two() || entries > most || !is_aligned {
            return Err(Status::InvalidParameter);
        }
        steering.table = request.words_at(req.indir_tab_offset.into(), entries.into())?;
        for handle in &steering.table {
            check_receive_object(nic, index, *handle)?;
        }
    }
    if let Some(more) = more {
        steering.coalesces = more.cqe_coalescing_enable != 0;
    }
    steering.rss = rss.unwrap_or(steering.rss);
    steering.enabled = enable.unwrap_or(steering.enabled);
    if steering.enabled {
        let default = steering.default_object.ok_or(Status::InvalidState)?;
        check_receive_object(nic, index, default)?;
    }
    answer.write(&ConfigVportRxResp {
        cqe_coalescing_timeout_ns: COALESCING_TIMEOUT_NS,
        reserved1: 0,
    });
    let is_enabled_now = nic.vports[index].steer(ctx, steering);
    nic.tell_steering(ctx, index);
    if is_enabled_now {
        nic.process_vport(ctx, index);
    }
    Ok(())
}

fn check_receive_object(nic: &Nic, vport: usize, handle: u64) -> Outcome {
    let key = nic.object(handle).ok_or(Status::InvalidHandle)?;
    let is_own = usize::from(key.vport) == vport;
    if is_own && key.direction == Direction::Receive {
        Ok(())
    } else {
        Err(Status::InvalidHandle)
    }
}

/// Handles `QUERY_STATS`: returns as many counters as the driver has room for.
pub fn query_stats(nic: &Nic, request: &Request<'_>, answer: &mut Answer<'_>) -> Outcome {
    let req: QueryStatsReq = request.body()?;
    let resp = QueryStatsResp {
        reported_stats: req.req_stats & ALL_STATS,
        stats: nic.total_stats(),
    };
    answer.write(&resp);
    Ok(())
}

/// Handles `VTL2_ASSIGN_SERIAL_NUMBER`.
pub fn assign_serial_number(nic: &mut Nic, request: &Request<'_>) -> Outcome {
    let req: AssignSerialNumberReq = request.body()?;
    let index = vport(nic, req.vport)?;
    nic.vports[index].port.serial_no = req.serial_no;
    Ok(())
}

/// Handles `VTL2_MOVE_FILTER`: notes on which side the filter is, for `VTL2_QUERY_FILTER_STATE`.
pub fn move_filter(nic: &mut Nic, request: &Request<'_>) -> Outcome {
    if request.header.req.msg_version < MOVE_FILTER_VERSION {
        return Err(Status::VersionMismatch);
    }
    let req: MoveFilterReq = request.body()?;
    let index = vport(nic, req.vport)?;
    if req.direction_to_vtl0 > 1 {
        return Err(Status::InvalidParameter);
    }
    nic.vports[index].port.filter_to_vtl0 = req.direction_to_vtl0 == 1;
    Ok(())
}

/// Returns the vport with a handle or an index. OpenVMM's driver queries the filter's
/// state by index (`new_vport` in its mana_driver), and everything else by handle; no
/// index is a handle.
fn vport_or_index(nic: &Nic, id: u64) -> Result<usize, Status> {
    match usize::try_from(id) {
        Ok(index) if index < nic.vports.len() => Ok(index),
        _ => vport(nic, id),
    }
}

/// Handles `VTL2_QUERY_FILTER_STATE`.
pub fn query_filter_state(nic: &Nic, request: &Request<'_>, answer: &mut Answer<'_>) -> Outcome {
    let req: QueryFilterStateReq = request.body()?;
    let index = vport_or_index(nic, req.vport)?;
    let resp = QueryFilterStateResp {
        direction_to_vtl0: nic.vports[index].port.filter_to_vtl0.into(),
        reserved: [0; 7],
    };
    answer.write(&resp);
    Ok(())
}
