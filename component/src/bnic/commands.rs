//! Requests of the basic NIC.

use alloc::vec::Vec;

use super::{MANA_DOORBELL, MANA_PDID, MAX_QUEUES, Nic, TX_VPORT_OFFSET, objects, rx};
use crate::gdma::queues::MAX_EQS;
use crate::hwc::Context;
use crate::hwc::requests::{Request, check_room, respond};
use device_kit::platform::Platform;
use mana_wire::bnic::{
    ALL_STATS, AssignSerialNumberReq, CAP_FILTER_STATE, ConfigVportRxReq, ConfigVportTxReq,
    ConfigVportTxResp, CreateWqObjReq, CreateWqObjResp, DestroyWqObjReq, FenceRqReq,
    INDIRECTION_ENTRIES, MoveFilterReq, QueryDevConfigReq, QueryDevConfigResp, QueryFilterStateReq,
    QueryFilterStateResp, QueryLinkConfigReq, QueryLinkConfigResp, QueryStatsReq, QueryStatsResp,
    QueryVportConfigReq, QueryVportConfigResp, code, tri_state,
};
use mana_wire::gdma::{DEV_MANA, Status};
use mana_wire::queue::QueueType;

/// Length of version 1 of the answer to `QUERY_DEV_CONFIG`.
const DEV_CONFIG_V1: usize = 40;
/// Newest version of that answer.
const DEV_CONFIG_VERSION: u16 = 3;
/// Length of version 1 of the answer to `QUERY_LINK_CONFIG`.
const LINK_CONFIG_V1: usize = 8;
/// Newest version of that answer.
const LINK_CONFIG_VERSION: u16 = 2;
/// `VTL2_MOVE_FILTER` exists from this version on.
const MOVE_FILTER_VERSION: u16 = 2;

/// Acts on a request. Returns the version of the response.
///
/// # Errors
///
/// The status to answer with.
pub fn handle(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<u16, Status> {
    let command = request.header.req.msg_type;
    if !is_known(command) {
        return Err(Status::Unsupported);
    }
    if request.header.dev_id != DEV_MANA {
        return Err(Status::NoSuchDevice);
    }
    // Linux 7.2 asks for the configuration before it registers, to
    // share out its vectors (`mana_gd_query_max_resources`).
    if !ctx.nic.registered && command != code::QUERY_DEV_CONFIG {
        return Err(Status::InvalidState);
    }
    match command {
        code::QUERY_DEV_CONFIG => return query_dev_config(ctx.nic, request, body),
        code::QUERY_LINK_CONFIG => return query_link_config(ctx.nic, request, body),
        code::QUERY_STATS => query_stats(ctx.nic, request, body),
        code::CONFIG_VPORT_TX => config_vport_tx(ctx.nic, request, body),
        code::CREATE_WQ_OBJ => create_wq_obj(ctx, request, body),
        code::DESTROY_WQ_OBJ => destroy_wq_obj(ctx, request),
        code::FENCE_RQ => fence_rq(ctx, request),
        code::CONFIG_VPORT_RX => config_vport_rx(ctx, request),
        code::QUERY_VPORT_CONFIG => query_vport_config(ctx.nic, request, body),
        code::VTL2_ASSIGN_SERIAL_NUMBER => assign_serial_number(ctx.nic, request),
        code::VTL2_MOVE_FILTER => move_filter(ctx.nic, request),
        code::VTL2_QUERY_FILTER_STATE => query_filter_state(ctx.nic, request, body),
        _ => Err(Status::Unsupported),
    }?;
    Ok(1)
}

/// Whether there is a command of this code.
fn is_known(command: u32) -> bool {
    matches!(
        command,
        code::QUERY_DEV_CONFIG..=code::QUERY_VPORT_CONFIG
            | code::QUERY_LINK_CONFIG
            | code::VTL2_ASSIGN_SERIAL_NUMBER..=code::VTL2_QUERY_FILTER_STATE
    )
}

fn vport(nic: &Nic, handle: u64) -> Result<usize, Status> {
    nic.vport_index(handle).ok_or(Status::InvalidHandle)
}

fn query_dev_config(nic: &Nic, request: &Request<'_>, body: &mut [u8]) -> Result<u16, Status> {
    let _: QueryDevConfigReq = request.body()?;
    let frames = nic.vports.iter().map(|vport| vport.max_frame());
    let speeds = nic.vports.iter().map(|vport| vport.config.link_speed_mbps);
    let resp = QueryDevConfigResp {
        pf_cap_flags: [CAP_FILTER_STATE, 0, 0, 0],
        max_num_vports: nic.vports.len() as u16,
        bm_hostmode: 0,
        reserved: 0,
        max_num_eqs: MAX_EQS as u32 - 1,
        adapter_mtu: frames.min().unwrap_or_default(),
        reserved2: 0,
        adapter_link_speed_mbps: speeds.max().unwrap_or_default(),
    };
    let version = request.header.resp.msg_version.min(DEV_CONFIG_VERSION);
    if version == 1 {
        check_room(body, DEV_CONFIG_V1)?;
        return respond(&mut body[..DEV_CONFIG_V1], &resp, DEV_CONFIG_V1).map(|()| version);
    }
    respond(body, &resp, size_of_val(&resp)).map(|()| version)
}

fn query_vport_config(nic: &Nic, request: &Request<'_>, body: &mut [u8]) -> Result<(), Status> {
    let req: QueryVportConfigReq = request.body()?;
    let index = req.vport_index as usize;
    let vport = nic.vports.get(index).ok_or(Status::InvalidParameter)?;
    let resp = QueryVportConfigResp {
        max_num_sq: MAX_QUEUES,
        max_num_rq: MAX_QUEUES,
        num_indirection_ent: INDIRECTION_ENTRIES.into(),
        reserved1: 0,
        mac_addr: vport.config.mac,
        reserved2: [0; 2],
        vport: Nic::vport_handle(index),
    };
    respond(body, &resp, size_of_val(&resp))
}

fn query_link_config(nic: &Nic, request: &Request<'_>, body: &mut [u8]) -> Result<u16, Status> {
    let req: QueryLinkConfigReq = request.body()?;
    let speed = nic.vports[vport(nic, req.vport)?].config.link_speed_mbps;
    // Nothing clamps a vport (`SET_BW_CLAMP` is unsupported), so that what it
    // may send is the link's speed.
    let resp = QueryLinkConfigResp {
        qos_speed_mbps: speed,
        qos_unconfigured: 0,
        reserved1: [0; 3],
        link_speed_mbps: speed,
        reserved2: [0; 4],
    };
    let version = request.header.resp.msg_version.min(LINK_CONFIG_VERSION);
    let length = match version {
        1 => LINK_CONFIG_V1,
        _ => size_of_val(&resp),
    };
    check_room(body, length)?;
    respond(&mut body[..length], &resp, length).map(|()| version)
}

fn config_vport_tx(nic: &mut Nic, request: &Request<'_>, body: &mut [u8]) -> Result<(), Status> {
    let req: ConfigVportTxReq = request.body()?;
    let index = vport(nic, req.vport)?;
    if req.pdid != MANA_PDID || req.doorbell_pageid != MANA_DOORBELL {
        return Err(Status::InvalidParameter);
    }
    let resp = ConfigVportTxResp {
        tx_vport_offset: TX_VPORT_OFFSET,
        short_form_allowed: 1,
        reserved: 0,
    };
    respond(body, &resp, size_of_val(&resp))?;
    nic.vports[index].tx_enabled = true;
    Ok(())
}

fn create_wq_obj(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    body: &mut [u8],
) -> Result<(), Status> {
    let req: CreateWqObjReq = request.body()?;
    check_room(body, size_of::<CreateWqObjResp>())?;
    let created = objects::create(ctx, &req)?;
    let resp = CreateWqObjResp {
        wq_id: created.wq,
        cq_id: created.cq,
        wq_obj: created.handle,
    };
    respond(body, &resp, size_of_val(&resp))
}

fn destroy_wq_obj(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    let req: DestroyWqObjReq = request.body()?;
    objects::destroy(ctx, req.wq_obj_handle, req.wq_type)
}

fn fence_rq(ctx: &mut Context<'_, impl Platform>, request: &Request<'_>) -> Result<(), Status> {
    let req: FenceRqReq = request.body()?;
    let (key, object) = ctx
        .nic
        .object(req.wq_obj_handle)
        .ok_or(Status::InvalidHandle)?;
    if object.queue_type() != QueueType::Rq {
        return Err(Status::InvalidParameter);
    }
    rx::fence(ctx, key)
}

fn config_vport_rx(
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
) -> Result<(), Status> {
    let req: ConfigVportRxReq = request.body()?;
    let index = vport(ctx.nic, req.vport)?;
    let enable = tri_state(req.rx_enable).map_err(|_| Status::InvalidParameter)?;
    let rss = tri_state(req.rss_enable).map_err(|_| Status::InvalidParameter)?;

    let mut steering = ctx.nic.vports[index].steering.clone();
    if req.update_default_rxobj != 0 {
        check_receive_object(ctx.nic, index, req.default_rxobj)?;
        steering.default_object = Some(req.default_rxobj);
    }
    if req.update_hashkey != 0 {
        steering.hash_key = req.hashkey;
    }
    if req.update_indir_tab != 0 {
        steering.table = indirection_table(request, &req)?;
        for handle in &steering.table {
            check_receive_object(ctx.nic, index, *handle)?;
        }
    }
    steering.rss = rss.unwrap_or(steering.rss);
    steering.enabled = enable.unwrap_or(steering.enabled);
    if steering.enabled {
        let default = steering.default_object.ok_or(Status::InvalidState)?;
        check_receive_object(ctx.nic, index, default)?;
    }
    rx::steer(ctx, index, steering);
    Ok(())
}

fn check_receive_object(nic: &Nic, vport: usize, handle: u64) -> Result<(), Status> {
    match nic.object(handle) {
        Some((_, o)) if o.vport == vport && o.queue_type() == QueueType::Rq => Ok(()),
        _ => Err(Status::InvalidHandle),
    }
}

fn indirection_table(request: &Request<'_>, req: &ConfigVportRxReq) -> Result<Vec<u64>, Status> {
    let entries = req.num_indir_entries;
    if entries == 0 || !entries.is_power_of_two() || entries > INDIRECTION_ENTRIES {
        return Err(Status::InvalidParameter);
    }
    let begin = usize::from(req.indir_tab_offset);
    let bytes = request.message.get(begin..begin + 8 * usize::from(entries));
    let (words, _) = bytes.ok_or(Status::TooShort)?.as_chunks();
    Ok(words.iter().copied().map(u64::from_le_bytes).collect())
}

fn query_stats(nic: &Nic, request: &Request<'_>, body: &mut [u8]) -> Result<(), Status> {
    let req: QueryStatsReq = request.body()?;
    let resp = QueryStatsResp {
        reported_stats: req.req_stats & ALL_STATS,
        stats: nic.total_stats(),
    };
    respond(body, &resp, size_of::<u64>())
}

fn assign_serial_number(nic: &mut Nic, request: &Request<'_>) -> Result<(), Status> {
    let req: AssignSerialNumberReq = request.body()?;
    let index = vport(nic, req.vport)?;
    nic.vports[index].serial_no = req.serial_no;
    Ok(())
}

fn move_filter(nic: &mut Nic, request: &Request<'_>) -> Result<(), Status> {
    if request.header.req.msg_version < MOVE_FILTER_VERSION {
        return Err(Status::VersionMismatch);
    }
    let req: MoveFilterReq = request.body()?;
    let index = vport(nic, req.vport)?;
    if req.direction_to_vtl0 > 1 {
        return Err(Status::InvalidParameter);
    }
    nic.vports[index].filter_to_vtl0 = req.direction_to_vtl0 == 1;
    Ok(())
}

/// The vport that a handle or an index names. OpenVMM's driver asks for the
/// filter's state by the index (`new_vport` in its mana_driver), and for all
/// else by the handle; no index is a handle.
fn vport_or_index(nic: &Nic, name: u64) -> Result<usize, Status> {
    match usize::try_from(name) {
        Ok(index) if index < nic.vports.len() => Ok(index),
        _ => vport(nic, name),
    }
}

fn query_filter_state(nic: &Nic, request: &Request<'_>, body: &mut [u8]) -> Result<(), Status> {
    let req: QueryFilterStateReq = request.body()?;
    let index = vport_or_index(nic, req.vport)?;
    let resp = QueryFilterStateResp {
        direction_to_vtl0: nic.vports[index].filter_to_vtl0.into(),
        reserved: [0; 7],
    };
    respond(body, &resp, size_of_val(&resp))
}
