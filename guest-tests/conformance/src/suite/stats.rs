//! Statistics.

use device_kit::platform::RxFlags;
use mana_wire::bnic::Stats;
use mana_wire::oob::{CqeType, TxShortOob};
use mana_wire::queue::QueueType;

use crate::driver::Driver;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::{frame, short};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check_eq};

super::declare! { "stats":
    begin_at_zero = "mana_en.c: mana_query_gf_stats",
    count_unicast_sent = "mana.h: struct mana_query_gf_stat_resp, hc_tx_ucast_pkts",
    count_every_piece_sent = "mana.h: struct mana_query_gf_stat_resp, hc_tx_bytes",
    count_multicast_sent = "mana.h: struct mana_query_gf_stat_resp, hc_tx_mcast_pkts",
    count_broadcast_sent = "mana.h: struct mana_query_gf_stat_resp, hc_tx_bcast_pkts",
    count_unicast_received = "mana.h: struct mana_query_gf_stat_resp, hc_rx_ucast_pkts",
    count_multicast_received = "mana.h: struct mana_query_gf_stat_resp, hc_rx_mcast_pkts",
    count_broadcast_received = "mana.h: struct mana_query_gf_stat_resp, hc_rx_bcast_pkts",
    count_frames_that_were_cut = "mana.h: struct mana_query_gf_stat_resp, rx_discards_nowqe",
    count_frames_too_long = "mana.h: struct mana_query_gf_stat_resp, tx_err_mtu_violation",
    count_invalid_oobs = "mana.h: struct mana_query_gf_stat_resp, tx_err_inval_oob",
    count_wrong_offsets = "mana.h: struct mana_query_gf_stat_resp, tx_err_inval_vport_offset_pkt",
    count_memory_errors = "mana.h: struct mana_query_gf_stat_resp, tx_err_gdma",
    count_disabled_vports = "mana.h: struct mana_query_gf_stat_resp, tx_err_vport_disabled",
    add_up_over_vports = "mana_en.c: mana_query_gf_stats (of the whole function)",
    begin_anew_after_a_reset = "mana_en.c: mana_query_gf_stats",
}

/// Checks that these are all counters, and that others are zero.
fn expect(driver: &mut Driver<'_>, expected: Stats) -> Outcome {
    check_eq("statistics", driver.stats()?, expected)
}

fn begin_at_zero(driver: &mut Driver<'_>) -> Outcome {
    driver.start_and_open()?;
    expect(driver, Stats::default())
}

/// Sends a frame to this address.
fn send_to(driver: &mut Driver<'_>, vport: &mut Vport, address: [u8; 6]) -> Outcome {
    let mut frame = frame(100);
    frame[..6].copy_from_slice(&address);
    vport.send(driver, &frame).map(|_| ())
}

fn count_unicast_sent(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    send_to(driver, &mut vport, [2, 0, 0, 0, 0, 9])?;
    send_to(driver, &mut vport, [2, 0, 0, 0, 0, 8])?;
    let expected = Stats {
        tx_bytes: 200,
        tx_ucast_pkts: 2,
        tx_ucast_bytes: 200,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_every_piece_sent(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(100))?;
    let wqe = vport.packet(&[sge(address, 30), sge(address + 30, 70)]);
    vport.send_wqe(driver, &wqe)?;
    let expected = Stats {
        tx_bytes: 100,
        tx_ucast_pkts: 1,
        tx_ucast_bytes: 100,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_multicast_sent(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    send_to(driver, &mut vport, [0x33, 0x33, 0, 0, 0, 1])?;
    let expected = Stats {
        tx_bytes: 100,
        tx_mcast_pkts: 1,
        tx_mcast_bytes: 100,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_broadcast_sent(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    send_to(driver, &mut vport, [0xff; 6])?;
    let expected = Stats {
        tx_bytes: 100,
        tx_bcast_pkts: 1,
        tx_bcast_bytes: 100,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn received(driver: &mut Driver<'_>, flags: RxFlags) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    vport.arrive(driver, &frame(77), flags)
}

fn count_unicast_received(driver: &mut Driver<'_>) -> Outcome {
    received(driver, RxFlags::empty())?;
    let expected = Stats {
        rx_bytes: 77,
        rx_ucast_pkts: 1,
        rx_ucast_bytes: 77,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_multicast_received(driver: &mut Driver<'_>) -> Outcome {
    received(driver, RxFlags::MULTICAST)?;
    let expected = Stats {
        rx_bytes: 77,
        rx_mcast_pkts: 1,
        rx_mcast_bytes: 77,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_broadcast_received(driver: &mut Driver<'_>) -> Outcome {
    received(driver, RxFlags::BROADCAST)?;
    let expected = Stats {
        rx_bytes: 77,
        rx_bcast_pkts: 1,
        rx_bcast_bytes: 77,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_frames_that_were_cut(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 10)?;
    vport.arrive(driver, &frame(77), RxFlags::empty())?;
    let expected = Stats {
        rx_discards_nowqe: 1,
        ..Stats::default()
    };
    expect(driver, expected)
}

/// Transmits one packet that must fail with this completion.
fn failed(
    driver: &mut Driver<'_>,
    how: CqeType,
    oob: impl FnOnce(TxShortOob) -> TxShortOob,
    length: u32,
) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(60))?;
    let wqe = Wqe::new(&short(oob(vport.oob())), &[sge(address, length)]);
    vport.fail(driver, &wqe, how)
}

fn count_frames_too_long(driver: &mut Driver<'_>) -> Outcome {
    failed(driver, CqeType::TxMtuDrop, |oob| oob, 2000)?;
    let expected = Stats {
        tx_err_mtu_violation: 1,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_invalid_oobs(driver: &mut Driver<'_>) -> Outcome {
    failed(driver, CqeType::TxInvalidOob, |oob| oob.with_vcq_num(0), 60)?;
    let expected = Stats {
        tx_err_inval_oob: 1,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_wrong_offsets(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_short_vp_offset(0xff);
    failed(driver, CqeType::TxVportIdxOutOfRange, oob, 60)?;
    let expected = Stats {
        tx_err_inval_vport_offset: 1,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_memory_errors(driver: &mut Driver<'_>) -> Outcome {
    failed(driver, CqeType::TxGdmaError, |oob| oob, 0)?;
    let expected = Stats {
        tx_err_gdma: 1,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn count_disabled_vports(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let handle = driver.query_vport(0)?.vport;
    let mut object = driver.create_object(handle, QueueType::Sq, None, Sizes::SMALL)?;
    let address = driver.place(&frame(60))?;
    let oob = TxShortOob::new().with_vcq_num(object.cq.id);
    let wqe = Wqe::new(&short(oob), &[sge(address, 60)]);
    object.wq.post(driver, &wqe);
    let expected = Stats {
        tx_err_vport_disabled: 1,
        ..Stats::default()
    };
    expect(driver, expected)
}

fn add_up_over_vports(driver: &mut Driver<'_>) -> Outcome {
    for vport in &mut driver.start_and_open_all(2)? {
        vport.works(driver)?;
    }
    let found = driver.stats()?;
    check_eq("packets sent", found.tx_ucast_pkts, 2)?;
    check_eq("packets received", found.rx_ucast_pkts, 2)?;
    check_eq("bytes received", found.rx_bytes, 122)
}

fn begin_anew_after_a_reset(driver: &mut Driver<'_>) -> Outcome {
    driver.start_and_open()?.works(driver)?;
    driver.bench.reset();
    driver.start_and_open()?;
    expect(driver, Stats::default())
}
