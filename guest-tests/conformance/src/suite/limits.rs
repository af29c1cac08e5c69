//! A port's link: its limit and its counters, which the host implements.

use device_kit::platform::LinkStatistics;
use mana_wire::bnic::{
    PHY_STATS, PhyStats, QueryLinkConfigReq, QueryLinkConfigResp, QueryPhyStatsReq,
    QueryPhyStatsResp, SetBwClampReq, SetBwClampResp, code,
};
use mana_wire::gdma::Status;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::nic::UNCHANGED;
use crate::failure::{Outcome, check_eq};

super::declare! { "limits":
    a_vport_is_limited_and_freed = "mana_en.c: mana_shaper_set, mana_shaper_del, mana_set_bw_clamp",
    a_link_says_what_it_is_limited_to = "mana_en.c: mana_query_link_cfg, speed and max_speed",
    each_vport_has_its_limit = "mana_en.c: mana_set_bw_clamp, vport",
    unknown_leaves_the_limit = "mana.h: TRI_STATE_UNKNOWN",
    nothing_and_more_than_the_link_has_are_refused = "mana_en.c: mana_shaper_set (a speed in steps of 100 Mbit/s)",
    a_limit_needs_a_vport_and_a_body = "mana_en.c: mana_set_bw_clamp",
    a_limit_goes_with_its_driver = "mana_en.c: mana_probe (no shaper)",
    a_limit_goes_with_a_reset = "mana_en.c: mana_probe (no shaper)",
    links_are_counted = "mana_en.c: mana_query_phy_stats",
    links_are_counted_together = "mana_en.c: mana_query_phy_stats (names no vport)",
    counters_need_room_and_a_body = "mana_en.c: mana_query_phy_stats",
}

fn clamp(vport: u64, enable: u32, mbps: u32) -> Request {
    let body = SetBwClampReq {
        vport,
        enable_clamping: enable,
        link_speed_mbps: mbps,
    };
    Request::new(code::SET_BW_CLAMP, &body, size_of::<SetBwClampResp>())
}

/// Limits a vport, whose answer must not be that its link is unconfigured.
fn limit(driver: &mut Driver<'_>, vport: u64, enable: u32, mbps: u32) -> Outcome {
    let found: SetBwClampResp = driver.ask(&clamp(vport, enable, mbps))?;
    check_eq("unconfigured", found.qos_unconfigured, 0)
}

fn start(driver: &mut Driver<'_>) -> Outcome<u64> {
    driver.start()?;
    Ok(driver.query_vport(0)?.vport)
}

/// Checks the limit that the host has for a port.
fn limited(driver: &mut Driver<'_>, port: u32, mbps: Option<u32>) -> Outcome {
    check_eq("limit in Mbit/s", driver.bench.rate_limit(port), mbps)
}

fn a_vport_is_limited_and_freed(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    for mbps in [100, 5000, 10_000] {
        limit(driver, vport, 1, mbps)?;
        limited(driver, 0, Some(mbps))?;
    }
    limit(driver, vport, 0, 0)?;
    limited(driver, 0, None)
}

/// Returns the highest speed that a vport can be set to, and its current one.
fn speeds(driver: &mut Driver<'_>, vport: u64) -> Outcome<(u32, u32)> {
    let size = size_of::<QueryLinkConfigResp>();
    let request = Request::new(code::QUERY_LINK_CONFIG, &QueryLinkConfigReq { vport }, size);
    let found: QueryLinkConfigResp = driver.ask(&request.versions(1, 2))?;
    Ok((found.qos_speed_mbps, found.link_speed_mbps))
}

fn a_link_says_what_it_is_limited_to(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    limit(driver, vport, 1, 300)?;
    check_eq("speeds", speeds(driver, vport)?, (10_000, 300))?;
    limit(driver, vport, 0, 0)?;
    check_eq("speeds", speeds(driver, vport)?, (10_000, 10_000))
}

fn each_vport_has_its_limit(driver: &mut Driver<'_>) -> Outcome {
    let first = start(driver)?;
    let second = driver.query_vport(1)?.vport;
    limit(driver, second, 1, 700)?;
    limited(driver, 0, None)?;
    limited(driver, 1, Some(700))?;
    limit(driver, first, 1, 200)?;
    limited(driver, 0, Some(200))?;
    limited(driver, 1, Some(700))
}

fn unknown_leaves_the_limit(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    limit(driver, vport, 1, 400)?;
    limit(driver, vport, UNCHANGED, 900)?;
    limited(driver, 0, Some(400))
}

fn nothing_and_more_than_the_link_has_are_refused(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    limit(driver, vport, 1, 400)?;
    for (enable, mbps) in [(1, 0), (1, 10_001), (1, u32::MAX), (2, 100), (0x101, 100)] {
        let request = clamp(vport, enable, mbps);
        driver.refuse(&request, Status::InvalidParameter)?;
        limited(driver, 0, Some(400))?;
    }
    check_eq("speeds", speeds(driver, vport)?, (10_000, 400))
}

fn a_limit_needs_a_vport_and_a_body(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    for handle in [0, 1, u64::MAX] {
        driver.refuse(&clamp(handle, 1, 100), Status::InvalidHandle)?;
    }
    let mut request = clamp(vport, 1, 100);
    request.body.pop();
    driver.refuse(&request, Status::TooShort)?;
    limited(driver, 0, None)
}

fn a_limit_goes_with_its_driver(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    limit(driver, vport, 1, 100)?;
    driver.deregister()?;
    limited(driver, 0, None)?;
    driver.register()?;
    check_eq("speeds", speeds(driver, vport)?, (10_000, 10_000))
}

fn a_limit_goes_with_a_reset(driver: &mut Driver<'_>) -> Outcome {
    let vport = start(driver)?;
    limit(driver, vport, 1, 100)?;
    driver.bench.reset();
    limited(driver, 0, None)
}

/// Returns counters that differ from one another, and from those of other ports.
fn counted(port: u64) -> LinkStatistics {
    let counter = |number: u64| 1000 * (port + 1) + number;
    LinkStatistics {
        rx_packets: counter(1),
        rx_bytes: counter(2),
        rx_dropped: counter(3),
        tx_packets: counter(4),
        tx_bytes: counter(5),
        tx_dropped: counter(6),
    }
}

fn query(room: usize) -> Request {
    let body = QueryPhyStatsReq { req_stats: 0 };
    Request::new(code::QUERY_PHY_STAT, &body, room)
}

/// Checks the counters of all links, which are those of one without traffic classes.
fn phy_stats(driver: &mut Driver<'_>, [rx, tx]: [[u64; 3]; 2]) -> Outcome {
    let found: QueryPhyStatsResp = driver.ask(&query(size_of::<QueryPhyStatsResp>()))?;
    let mut expected = PhyStats::default();
    let packets = [rx[0], tx[0]];
    (expected.pkts[0], expected.bytes[0]) = (packets, [rx[1], tx[1]]);
    (expected.rx_pkt_drop_phy, expected.tx_pkt_drop_phy) = (rx[2], tx[2]);
    check_eq("counters", found.stats, expected)?;
    check_eq("counters there are", found.reported_stats, PHY_STATS)
}

fn links_are_counted(driver: &mut Driver<'_>) -> Outcome {
    start(driver)?;
    phy_stats(driver, [[0; 3]; 2])?;
    driver.bench.count_link(0, counted(0));
    phy_stats(driver, [[1001, 1002, 1003], [1004, 1005, 1006]])
}

fn links_are_counted_together(driver: &mut Driver<'_>) -> Outcome {
    start(driver)?;
    for port in 0..super::PORTS {
        driver.bench.count_link(port, counted(port.into()));
    }
    phy_stats(driver, [[3002, 3004, 3006], [3008, 3010, 3012]])
}

fn counters_need_room_and_a_body(driver: &mut Driver<'_>) -> Outcome {
    start(driver)?;
    driver.refuse(&query(7), Status::ResponseTooSmall)?;
    let mut request = query(size_of::<QueryPhyStatsResp>());
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}
