//! Commands of the basic NIC.

use alloc::vec::Vec;

use crate::driver::PDID;
use mana_wire::bnic::{
    AssignSerialNumberReq, ConfigVportTxReq, MoveFilterReq, QueryDevConfigReq, QueryDevConfigResp,
    QueryFilterStateReq, QueryFilterStateResp, QueryLinkConfigReq, QueryLinkConfigResp,
    QueryStatsReq, QueryVportConfigReq, code,
};
use mana_wire::gdma::{DEV_HWC, DEV_MANA, DevId, Status};

use zerocopy::IntoBytes;

use crate::driver::Driver;
use crate::driver::message::{Request, Response};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "nic":
    tells_its_configuration = "mana_en.c: mana_gd_query_device_cfg",
    tells_the_oldest_layout = "mana_en.c: mana_gd_query_device_cfg, GDMA_MESSAGE_V1",
    tells_the_second_layout = "mana_en.c: mana_gd_query_device_cfg, GDMA_MESSAGE_V2",
    tells_the_newest_layout = "mana_en.c: mana_gd_query_device_cfg, GDMA_MESSAGE_V3",
    answers_a_newer_version_with_its_newest = "mana_en.c: mana_verify_resp_hdr",
    the_oldest_layout_reads_as_zero_beyond_its_end = "reference: handle_req",
    the_newest_layout_reads_as_zero_beyond_its_end = "reference: handle_req",
    configuration_needs_room_for_its_layout = "mana_en.c: mana_gd_query_device_cfg",
    configuration_needs_its_body = "mana_en.c: mana_gd_query_device_cfg",
    counts_as_many_vports_as_ports(5) = "mana_en.c: mana_gd_query_device_cfg, max_num_vports",
    tells_its_configuration_before_it_is_registered = "gdma_main.c: mana_gd_query_max_resources, mana_gd_query_device_cfg",
    commands_need_a_registered_device = "mana_en.c: gdma_mana_send_request",
    commands_need_the_nics_name = "mana_en.c: gdma_mana_send_request, dev_id",
    unknown_commands_are_unsupported = "hw_channel.c: mana_hwc_send_request, GDMA_STATUS_CMD_UNSUPPORTED",
    pf_commands_are_unsupported = "mana.h: MANA_REGISTER_HW_PORT",
    tells_each_vport = "mana_en.c: mana_query_vport_cfg",
    vports_have_handles_of_their_own = "mana_en.c: mana_query_vport_cfg, vport",
    vports_have_the_ports_addresses(4) = "mana_en.c: mana_query_vport_cfg, mac_addr",
    refuses_vports_that_are_not = "mana_en.c: mana_query_vport_cfg",
    vport_needs_room = "mana_en.c: mana_query_vport_cfg",
    vport_request_needs_its_body = "mana_en.c: mana_query_vport_cfg",
    tells_a_links_speed(4) = "mana_en.c: mana_query_link_cfg, mana_ethtool.c: mana_get_link_ksettings",
    tells_a_links_speed_in_the_oldest_layout = "mana_en.c: mana_query_link_cfg, GDMA_MESSAGE_V1",
    answers_a_newer_question_about_a_link_with_its_newest = "mana_en.c: mana_verify_resp_hdr",
    link_needs_a_vport = "mana_en.c: mana_query_link_cfg",
    link_needs_room_for_its_layout = "mana_en.c: mana_query_link_cfg",
    link_request_needs_its_body = "mana_en.c: mana_query_link_cfg",
    lets_a_vport_transmit = "mana_en.c: mana_cfg_vport",
    may_be_told_twice_to_transmit = "mana_en.c: mana_cfg_vport",
    transmit_needs_a_vport = "mana_en.c: mana_cfg_vport",
    transmit_needs_the_nics_domain = "mana_en.c: mana_cfg_vport, pdid",
    transmit_needs_the_nics_doorbells = "mana_en.c: mana_cfg_vport, doorbell_pageid",
    transmit_needs_room = "mana_en.c: mana_cfg_vport",
    transmit_needs_its_body = "mana_en.c: mana_cfg_vport",
    statistics_say_which_they_are = "mana_en.c: mana_query_gf_stats",
    statistics_report_only_what_exists = "mana_en.c: mana_query_gf_stats",
    statistics_fit_into_less = "mana_en.c: mana_query_gf_stats",
    statistics_need_room_for_their_flags = "mana_en.c: mana_query_gf_stats",
    statistics_need_their_body = "mana_en.c: mana_query_gf_stats",
    takes_a_serial_number = "openvmm gdma_defs: MANA_VTL2_ASSIGN_SERIAL_NUMBER",
    serial_number_needs_a_vport = "openvmm gdma_defs: MANA_VTL2_ASSIGN_SERIAL_NUMBER",
    filter_is_not_moved_at_first = "openvmm gdma_defs: MANA_VTL2_QUERY_FILTER_STATE",
    moves_the_filter_and_back = "openvmm gdma_defs: MANA_VTL2_MOVE_FILTER",
    moves_the_filter_of_one_vport_only = "openvmm gdma_defs: MANA_VTL2_MOVE_FILTER",
    moving_exists_from_version_2_on = "openvmm gdma_defs: MANA_VTL2_MOVE_FILTER",
    moving_needs_a_direction = "openvmm gdma_defs: MANA_VTL2_MOVE_FILTER",
    moving_needs_a_vport = "openvmm gdma_defs: MANA_VTL2_MOVE_FILTER",
    filter_state_is_told_by_index_too = "openvmm mana_driver: new_vport, query_filter_state(vport.id)",
    filter_state_needs_a_vport = "openvmm gdma_defs: MANA_VTL2_QUERY_FILTER_STATE",
    filter_state_needs_room = "openvmm gdma_defs: MANA_VTL2_QUERY_FILTER_STATE",
}

const CONFIG: usize = size_of::<QueryDevConfigResp>();
/// Length of the first layout.
const CONFIG_V1: usize = 40;

fn config_request(version: u16, room: usize) -> Request {
    let body = QueryDevConfigReq {
        drv_cap_flags: [0; 4],
        proto_ver: [0, 1, 1],
        reserved: 0,
    };
    Request::new(code::QUERY_DEV_CONFIG, &body, room).versions(1, version)
}

/// Asks for the configuration over a buffer that is not zero.
fn config(driver: &mut Driver<'_>, version: u16, room: usize) -> Outcome<Response> {
    driver.start()?;
    let page = driver.with_hwc(|hwc, _| Ok(hwc.response_page))?;
    driver.bench.write_memory(page, &[0xee; 4096]);
    driver.succeed(&config_request(version, room))
}

fn tells_its_configuration(driver: &mut Driver<'_>) -> Outcome {
    let found: QueryDevConfigResp = config(driver, 3, CONFIG)?.parse()?;
    check_eq("vports", found.max_num_vports, 2)?;
    check_eq("longest frame", found.adapter_mtu, 1514)?;
    check_eq("link speed", found.adapter_link_speed_mbps, 10_000)?;
    check(found.max_num_eqs > 0, "no event queues")
}

fn tells_the_oldest_layout(driver: &mut Driver<'_>) -> Outcome {
    let response = config(driver, 1, CONFIG_V1)?;
    check_eq("version", response.header.response.msg_version, 1)?;
    let vports = u16::from_le_bytes([response.body[32], response.body[33]]);
    check_eq("vports", vports, 2)
}

fn tells_the_second_layout(driver: &mut Driver<'_>) -> Outcome {
    let response = config(driver, 2, CONFIG)?;
    check_eq("version", response.header.response.msg_version, 2)?;
    let found: QueryDevConfigResp = response.parse()?;
    check_eq("longest frame", found.adapter_mtu, 1514)
}

fn tells_the_newest_layout(driver: &mut Driver<'_>) -> Outcome {
    let response = config(driver, 3, CONFIG)?;
    check_eq("version", response.header.response.msg_version, 3)?;
    let found: QueryDevConfigResp = response.parse()?;
    check_eq("bare-metal host mode", found.bm_hostmode, 0)
}

fn answers_a_newer_version_with_its_newest(driver: &mut Driver<'_>) -> Outcome {
    let response = config(driver, 9, CONFIG + 8)?;
    check_eq("version", response.header.response.msg_version, 3)?;
    check_eq("beyond the layout", &response.body[CONFIG..], &[0; 8][..])
}

fn the_oldest_layout_reads_as_zero_beyond_its_end(driver: &mut Driver<'_>) -> Outcome {
    let response = config(driver, 1, CONFIG)?;
    let beyond = &response.body[CONFIG_V1..];
    check_eq("beyond the first layout", beyond, &[0; 8][..])
}

fn the_newest_layout_reads_as_zero_beyond_its_end(driver: &mut Driver<'_>) -> Outcome {
    let response = config(driver, 3, 256)?;
    let beyond = response.body[CONFIG..].iter().all(|byte| *byte == 0);
    check(beyond, "bytes beyond the newest layout are not zero")
}

fn configuration_needs_room_for_its_layout(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for (version, room) in [(1, CONFIG_V1 - 1), (2, CONFIG - 1), (3, CONFIG - 1)] {
        let request = config_request(version, room);
        driver.refuse(&request, Status::ResponseTooSmall)?;
    }
    Ok(())
}

/// Checks that a request is refused without the last byte of its body.
fn needs_its_body(driver: &mut Driver<'_>, mut request: Request) -> Outcome {
    driver.start()?;
    driver.succeed(&request)?;
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}

/// Checks that a request is refused without the last byte of its response.
fn needs_room(driver: &mut Driver<'_>, mut request: Request) -> Outcome {
    driver.start()?;
    driver.succeed(&request)?;
    request.header.resp.msg_size -= 1;
    driver.refuse(&request, Status::ResponseTooSmall)
}

fn configuration_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    needs_its_body(driver, config_request(2, CONFIG))
}

fn counts_as_many_vports_as_ports(driver: &mut Driver<'_>) -> Outcome {
    let found: QueryDevConfigResp = config(driver, 2, CONFIG)?.parse()?;
    check_eq("vports", found.max_num_vports, 5)
}

fn commands() -> impl Iterator<Item = u32> {
    (0x20001..=0x20008)
        .chain([code::QUERY_LINK_CONFIG])
        .chain(0x27801..=0x27803)
}

fn tells_its_configuration_before_it_is_registered(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.verify_version(0)?;
    let found: QueryDevConfigResp = driver.ask(&config_request(3, CONFIG))?;
    check_eq("vports", found.max_num_vports, 2)?;
    driver.register().map(|_| ())
}

fn commands_need_a_registered_device(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.verify_version(0)?;
    for command in commands().filter(|command| *command != code::QUERY_DEV_CONFIG) {
        let request = Request::of_bytes(command, &[0; 128], 256);
        driver.refuse(&request, Status::InvalidState)?;
    }
    Ok(())
}

fn commands_need_the_nics_name(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let other = DevId {
        device_type: 2,
        instance: 0,
    };
    for command in commands() {
        for dev in [DEV_HWC, other] {
            let request = Request::of_bytes(command, &[0; 128], 256).to(dev);
            driver.refuse(&request, Status::NoSuchDevice)?;
        }
    }
    Ok(())
}

fn unknown_commands_are_unsupported(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for command in [
        0x20000,
        0x20009,
        0x2000d,
        0x27800,
        0x27804,
        0x3_0001,
        0xffff_ffff,
    ] {
        let request = Request::of_bytes(command, &[0; 64], 64);
        driver.refuse(&request, Status::Unsupported)?;
    }
    Ok(())
}

fn pf_commands_are_unsupported(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for command in [0x28000, 0x28001, 0x28003, 0x28004] {
        let request = Request::of_bytes(command, &[0; 64], 64).to(DEV_MANA);
        driver.refuse(&request, Status::Unsupported)?;
    }
    Ok(())
}

fn tells_each_vport(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for index in 0..2 {
        let found = driver.query_vport(index)?;
        let queues = [found.max_num_sq, found.max_num_rq];
        check(!queues.contains(&0), "a vport without queues")?;
        let entries = found.num_indirection_ent;
        check_eq("indirection entries", entries, 64)?;
    }
    Ok(())
}

fn vports_have_handles_of_their_own(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let (first, second) = (driver.query_vport(0)?.vport, driver.query_vport(1)?.vport);
    check(first != second, "two vports have one handle")?;
    check_eq("handle asked again", driver.query_vport(0)?.vport, first)?;
    check(first != u64::MAX && first != 0, "a handle that is none")
}

fn vports_have_the_ports_addresses(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for index in 0..4 {
        let found = driver.query_vport(index)?.mac_addr;
        check_eq("MAC address", found, [2, 0, 0, 0, 0, index as u8])?;
    }
    Ok(())
}

fn vport_request(vport_index: u32) -> Request {
    let body = QueryVportConfigReq { vport_index };
    Request::new(code::QUERY_VPORT_CONFIG, &body, 32)
}

fn refuses_vports_that_are_not(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for index in [2, 256, u32::MAX] {
        let request = vport_request(index);
        driver.refuse(&request, Status::InvalidParameter)?;
    }
    Ok(())
}

fn vport_needs_room(driver: &mut Driver<'_>) -> Outcome {
    needs_room(driver, vport_request(0))
}

fn vport_request_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    needs_its_body(driver, vport_request(0))
}

fn tx_request(vport: u64, pdid: u32, doorbell_pageid: u32) -> Request {
    let body = ConfigVportTxReq {
        vport,
        pdid,
        doorbell_pageid,
    };
    Request::new(code::CONFIG_VPORT_TX, &body, 4)
}

fn first_vport(driver: &mut Driver<'_>) -> Outcome<u64> {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    driver.shm_succeed(&[0; 28], crate::driver::shm::destroy())?;
    Ok(vport)
}

const LINK: usize = size_of::<QueryLinkConfigResp>();
/// Length of the first layout.
const LINK_V1: usize = 8;

fn link_request(vport: u64, version: u16, room: usize) -> Request {
    let body = QueryLinkConfigReq { vport };
    Request::new(code::QUERY_LINK_CONFIG, &body, room).versions(1, version)
}

fn tells_a_links_speed(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for index in 0..4 {
        let vport = driver.query_vport(index)?.vport;
        let response = driver.succeed(&link_request(vport, 2, LINK))?;
        check_eq("version", response.header.response.msg_version, 2)?;
        let found: QueryLinkConfigResp = response.parse()?;
        let expected = QueryLinkConfigResp {
            qos_speed_mbps: 10_000,
            qos_unconfigured: 0,
            reserved1: [0; 3],
            link_speed_mbps: 10_000,
            reserved2: [0; 4],
        };
        check_eq("link", found, expected)?;
    }
    Ok(())
}

fn tells_a_links_speed_in_the_oldest_layout(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let response = driver.succeed(&link_request(vport, 1, LINK))?;
    check_eq("version", response.header.response.msg_version, 1)?;
    let (first, beyond) = response.body.split_at(LINK_V1);
    let speed = &10_000u64.to_le_bytes()[..];
    check_eq("speed, and that it is configured", first, speed)?;
    check_eq("beyond the layout", beyond, &[0; LINK - LINK_V1][..])
}

fn answers_a_newer_question_about_a_link_with_its_newest(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let response = driver.succeed(&link_request(vport, 9, LINK + 8))?;
    check_eq("version", response.header.response.msg_version, 2)?;
    check_eq("beyond the layout", &response.body[LINK..], &[0; 8][..])
}

fn link_needs_a_vport(driver: &mut Driver<'_>) -> Outcome {
    for handle in no_vports(driver)? {
        driver.refuse(&link_request(handle, 2, LINK), Status::InvalidHandle)?;
    }
    Ok(())
}

fn link_needs_room_for_its_layout(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    for (version, room) in [(1, LINK_V1 - 1), (2, LINK - 1)] {
        let request = link_request(vport, version, room);
        driver.refuse(&request, Status::ResponseTooSmall)?;
    }
    Ok(())
}

fn link_request_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    let vport = first_vport(driver)?;
    needs_its_body(driver, link_request(vport, 2, LINK))
}

fn lets_a_vport_transmit(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let found = driver.configure_tx(vport)?;
    check_eq("short form allowed", found.short_form_allowed, 1)?;
    let offset = found.tx_vport_offset;
    check(offset < 256, "the offset does not fit the short form")
}

fn may_be_told_twice_to_transmit(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.configure_tx(vport.handle)?;
    vport.works(driver)
}

/// Handles that name no vport: none, others, and a send queue's.
fn no_vports(driver: &mut Driver<'_>) -> Outcome<[u64; 6]> {
    let vport = driver.start_and_open()?;
    let last = driver.query_vport(1)?.vport;
    let object = vport.tx.handle;
    Ok([0, 1, u64::MAX, last + 1, last ^ 1 << 50, object])
}

fn transmit_needs_a_vport(driver: &mut Driver<'_>) -> Outcome {
    for handle in no_vports(driver)? {
        let request = tx_request(handle, PDID, 0);
        driver.refuse(&request, Status::InvalidHandle)?;
    }
    Ok(())
}

fn transmit_needs_the_nics_domain(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let request = tx_request(vport, PDID + 1, 0);
    driver.refuse(&request, Status::InvalidParameter)
}

fn transmit_needs_the_nics_doorbells(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let request = tx_request(vport, PDID, 1);
    driver.refuse(&request, Status::InvalidParameter)
}

fn transmit_needs_room(driver: &mut Driver<'_>) -> Outcome {
    let vport = first_vport(driver)?;
    needs_room(driver, tx_request(vport, PDID, 0))
}

fn transmit_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    let vport = first_vport(driver)?;
    needs_its_body(driver, tx_request(vport, PDID, 0))
}

fn stats_request(req_stats: u64, room: usize) -> Request {
    Request::new(code::QUERY_STATS, &QueryStatsReq { req_stats }, room)
}

/// Flags and 27 counters.
const STATS: usize = 8 * 28;

fn statistics_say_which_they_are(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let found: u64 = driver.ask(&stats_request(0b1011, STATS))?;
    check_eq("reported statistics", found, 0b1011)
}

fn statistics_report_only_what_exists(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let found: u64 = driver.ask(&stats_request(u64::MAX, STATS))?;
    check_eq("reported statistics", found, (1 << 27) - 1)
}

fn statistics_fit_into_less(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.receive(driver, &[0; 60])?;
    // Flags and the first three counters, the third of which is rx_bytes.
    let found: [u64; 4] = driver.ask(&stats_request(u64::MAX, 32))?;
    check_eq("rx_bytes", found[3], 60)
}

fn statistics_need_room_for_their_flags(driver: &mut Driver<'_>) -> Outcome {
    needs_room(driver, stats_request(1, 8))
}

fn statistics_need_their_body(driver: &mut Driver<'_>) -> Outcome {
    needs_its_body(driver, stats_request(1, STATS))
}

fn serial_request(vport: u64) -> Request {
    let body = AssignSerialNumberReq {
        vport,
        serial_no: 0x1234,
        reserved: 0,
    };
    Request::new(code::VTL2_ASSIGN_SERIAL_NUMBER, &body, 0)
}

fn takes_a_serial_number(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(1)?.vport;
    driver.succeed(&serial_request(vport))?;
    super::check_inspect(driver, "/nic/vports/1/serial_number", 0x1234)?;
    super::check_inspect(driver, "/nic/vports/0/serial_number", 0)
}

fn serial_number_needs_a_vport(driver: &mut Driver<'_>) -> Outcome {
    for handle in no_vports(driver)? {
        driver.refuse(&serial_request(handle), Status::InvalidHandle)?;
    }
    Ok(())
}

fn filter_state(driver: &mut Driver<'_>, vport: u64) -> Outcome<u8> {
    let body = QueryFilterStateReq { vport };
    let request = Request::new(code::VTL2_QUERY_FILTER_STATE, &body, 8);
    let found: QueryFilterStateResp = driver.ask(&request)?;
    Ok(found.direction_to_vtl0)
}

fn move_request(vport: u64, direction_to_vtl0: u8) -> Request {
    let body = MoveFilterReq {
        vport,
        direction_to_vtl0,
        reserved: [0; 7],
    };
    Request::new(code::VTL2_MOVE_FILTER, &body, 0).versions(2, 1)
}

fn filter_is_not_moved_at_first(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    check_eq("filter at VTL 0", filter_state(driver, vport)?, 0)
}

fn moves_the_filter_and_back(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    for direction in [1, 1, 0, 1] {
        driver.succeed(&move_request(vport, direction))?;
        check_eq("filter at VTL 0", filter_state(driver, vport)?, direction)?;
    }
    Ok(())
}

fn moves_the_filter_of_one_vport_only(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let (first, second) = (driver.query_vport(0)?.vport, driver.query_vport(1)?.vport);
    driver.succeed(&move_request(first, 1))?;
    check_eq("filter of the other", filter_state(driver, second)?, 0)
}

fn moving_exists_from_version_2_on(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let request = move_request(vport, 1).versions(1, 1);
    driver.refuse(&request, Status::VersionMismatch)?;
    check_eq("filter at VTL 0", filter_state(driver, vport)?, 0)
}

fn moving_needs_a_direction(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let request = move_request(vport, 2);
    driver.refuse(&request, Status::InvalidParameter)
}

fn moving_needs_a_vport(driver: &mut Driver<'_>) -> Outcome {
    for handle in no_vports(driver)? {
        driver.refuse(&move_request(handle, 1), Status::InvalidHandle)?;
    }
    Ok(())
}

fn filter_state_is_told_by_index_too(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let second = driver.query_vport(1)?.vport;
    driver.succeed(&move_request(second, 1))?;
    check_eq("filter of the first", filter_state(driver, 0)?, 0)?;
    check_eq("filter of the second", filter_state(driver, 1)?, 1)?;
    let body = QueryFilterStateReq { vport: 2 };
    let request = Request::new(code::VTL2_QUERY_FILTER_STATE, &body, 8);
    driver.refuse(&request, Status::InvalidHandle)
}

/// Returns the handles of [`no_vports`] that are no index of a vport either.
fn no_names(driver: &mut Driver<'_>) -> Outcome<Vec<u64>> {
    let ports = u64::from(super::PORTS);
    let handles = no_vports(driver)?.into_iter();
    Ok(handles.filter(|name| *name >= ports).collect())
}

fn filter_state_needs_a_vport(driver: &mut Driver<'_>) -> Outcome {
    for vport in no_names(driver)? {
        let body = QueryFilterStateReq { vport };
        let request = Request::new(code::VTL2_QUERY_FILTER_STATE, &body, 8);
        driver.refuse(&request, Status::InvalidHandle)?;
    }
    Ok(())
}

fn filter_state_needs_room(driver: &mut Driver<'_>) -> Outcome {
    let vport = first_vport(driver)?;
    let body = QueryFilterStateReq { vport };
    needs_room(
        driver,
        Request::of_bytes(code::VTL2_QUERY_FILTER_STATE, body.as_bytes(), 8),
    )
}
