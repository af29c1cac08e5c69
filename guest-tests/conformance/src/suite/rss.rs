//! The distribution of packets over receive queues by their hash.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use device_kit::platform::{HashTypes, RxFlags, Steering};
use mana_wire::bnic::INDIRECTION_ENTRIES;
use mana_wire::gdma::{Status, cap1};
use mana_wire::oob::{CqeType, hash};
use mana_wire::queue::QueueType;

use crate::bench::hash_of;
use crate::driver::Driver;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::pairs::{KEY, Rss, in_turn, numbers_in_turn};
use crate::driver::traffic::numbered_frame;
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Failure, Outcome, check_eq};

super::declare! { "rss":
    the_host_is_told_key_and_table = "WIT: steer",
    every_hash_that_a_completion_can_name_is_asked_for = "mana.h: MANA_HASH_L3, MANA_HASH_L4",
    without_spreading_all_go_to_the_default_queue = "mana_en.c: mana_alloc_queues, rss_state",
    a_vport_that_does_not_receive_is_not_steered = "mana_en.c: mana_dealloc_queues",
    a_key_takes_effect_in_mid_traffic = "mana_ethtool.c: mana_set_rxfh",
    a_table_takes_effect_in_mid_traffic = "mana_ethtool.c: mana_set_rxfh",
    what_is_not_updated_stays = "mana_en.c: mana_cfg_vport_steering, update_hashkey, update_indir_tab",
    a_table_of_queues_that_are_gone_is_refused = "hostile guest: tables with queues that are gone",
    a_table_of_other_queues_is_refused = "mana_en.c: mana_cfg_vport_steering, indir_tab",
    a_refused_request_changes_nothing = "mana_en.c: mana_cfg_vport_steering",
    a_table_has_64_entries_for_older_drivers = "mana.h: MANA_INDIRECT_TABLE_DEF_SIZE",
    a_table_has_more_for_drivers_that_take_them = "gdma.h: GDMA_DRV_CAP_FLAG_1_VARIABLE_INDIRECTION_TABLE_SUPPORT",
    a_queue_that_goes_leaves_its_packets_to_the_default_queue = "mana_ib: commit dbeb256e8dd8",
    a_default_queue_that_goes_has_a_successor = "mana_ib: commit dbeb256e8dd8",
    with_the_last_queue_the_vport_stops_to_receive = "mana_ib: commit dbeb256e8dd8",
    a_send_queue_that_goes_changes_nothing = "mana_en.c: mana_destroy_txq",
    a_reset_forgets_it = "mana_en.c: mana_gd_resume",
    a_completion_has_the_hash = "mana_en.c: mana_rx_skb, pkt_hash",
    a_completion_says_what_the_hash_is_of = "mana_en.c: mana_rx_skb, rx_hashtype",
    a_packet_without_a_hash_has_none = "mana_en.c: mana_rx_skb, rx_hashtype",
    packets_of_many_kinds_keep_their_hashes = "mana_en.c: mana_rx_skb, pkt_hash",
    packets_that_share_a_completion_have_their_hashes = "mana_en.c: mana_process_rx_cqe, ppi",
    buffers_of_many_pieces_have_hashes_too = "mana_en.c: mana_rx_skb, pkt_hash",
}

/// Queue pairs for most of these requirements.
const PAIRS: u16 = 4;

fn open(driver: &mut Driver<'_>) -> Outcome<Vec<Vport>> {
    driver.start()?;
    driver.open_pairs(0, PAIRS, Sizes::SMALL)
}

/// Returns the steering that the device set.
fn told(driver: &mut Driver<'_>) -> Outcome<Steering> {
    let steering = driver.bench.steering(0);
    steering.ok_or_else(|| Failure::new("the device does not steer its packets"))
}

/// Checks that the steering is still `before`.
fn unchanged(driver: &mut Driver<'_>, before: &Steering) -> Outcome {
    check_eq("steering", &told(driver)?, before)
}

fn change(driver: &mut Driver<'_>, pairs: &[Vport], rss: &Rss) -> Outcome {
    driver.succeed(&rss.request(pairs[0].handle)).map(|_| ())
}

fn the_host_is_told_key_and_table(driver: &mut Driver<'_>) -> Outcome {
    open(driver)?;
    let told = told(driver)?;
    check_eq("key", &told.key[..], &KEY[..])?;
    let entries = INDIRECTION_ENTRIES.into();
    let expected = numbers_in_turn(PAIRS.into(), entries);
    check_eq("table", told.table, expected)?;
    check_eq("default queue", told.default_queue, 0)
}

fn every_hash_that_a_completion_can_name_is_asked_for(driver: &mut Driver<'_>) -> Outcome {
    open(driver)?;
    check_eq("hash types", told(driver)?.hash_types, HashTypes::all())
}

fn without_spreading_all_go_to_the_default_queue(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    let rss = Rss {
        spread: Some(false),
        default: Some(pairs[2].rx.handle),
        ..Rss::default()
    };
    change(driver, &pairs, &rss)?;
    let told = told(driver)?;
    check_eq("table", told.table, [].into())?;
    check_eq("default queue", told.default_queue, 2)?;
    check_eq("hash types", told.hash_types, HashTypes::empty())
}

fn a_vport_that_does_not_receive_is_not_steered(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    let before = told(driver)?;
    driver.disable_rx(pairs[0].handle)?;
    let rss = Rss {
        key: Some([7; 40]),
        ..Rss::default()
    };
    change(driver, &pairs, &rss)?;
    unchanged(driver, &before)?;
    let rss = Rss {
        enable: Some(true),
        ..Rss::default()
    };
    change(driver, &pairs, &rss)?;
    check_eq("key", &told(driver)?.key[..], &[7; 40][..])
}

/// Posts a buffer on each queue, changes something, and checks that each still receives
/// into it.
fn in_mid_traffic(driver: &mut Driver<'_>, rss: impl Fn(&[Vport]) -> Rss) -> Outcome {
    let mut pairs = open(driver)?;
    let mut places = Vec::new();
    for (number, pair) in (0..).zip(&mut pairs) {
        driver.bench.on_queue(number);
        places.push(pair.post_buffer(driver, 2048)?);
    }
    let rss = rss(&pairs);
    change(driver, &pairs, &rss)?;
    for (number, pair) in (0..).zip(&mut pairs) {
        driver.bench.on_queue(number);
        check_eq("posted buffers", driver.bench.posted_buffers(0), 1)?;
        let frame = numbered_frame(60, number as u8);
        pair.arrive(driver, &frame, RxFlags::empty())?;
        let (address, offset) = places[number as usize];
        pair.take_frame(driver, &frame, address, offset)?;
    }
    Ok(())
}

fn a_key_takes_effect_in_mid_traffic(driver: &mut Driver<'_>) -> Outcome {
    in_mid_traffic(driver, |_| Rss {
        key: Some([0x55; 40]),
        ..Rss::default()
    })?;
    check_eq("key", &told(driver)?.key[..], &[0x55; 40][..])
}

fn a_table_takes_effect_in_mid_traffic(driver: &mut Driver<'_>) -> Outcome {
    in_mid_traffic(driver, |pairs| Rss {
        table: Some(vec![pairs[3].rx.handle; 64]),
        ..Rss::default()
    })?;
    check_eq("table", told(driver)?.table, vec![3; 64])
}

fn what_is_not_updated_stays(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    let before = told(driver)?;
    change(driver, &pairs, &Rss::default())?;
    unchanged(driver, &before)?;
    let rss = Rss {
        table: Some(in_turn(&pairs[1..], 8)),
        ..Rss::default()
    };
    change(driver, &pairs, &rss)?;
    let expected = Steering {
        table: [1, 2, 3, 1, 2, 3, 1, 2].into(),
        ..before
    };
    unchanged(driver, &expected)
}

/// Checks that a request with a table is refused as a whole, and changes nothing.
fn refused(driver: &mut Driver<'_>, pairs: &[Vport], bad: u64) -> Outcome {
    let before = told(driver)?;
    for index in [0, 31, 63] {
        let mut table = vec![pairs[0].rx.handle; 64];
        table[index] = bad;
        let rss = Rss {
            enable: Some(false),
            key: Some([1; 40]),
            default: Some(pairs[1].rx.handle),
            table: Some(table),
            ..Rss::default()
        };
        let request = rss.request(pairs[0].handle);
        driver.refuse(&request, Status::InvalidHandle)?;
        unchanged(driver, &before)?;
    }
    Ok(())
}

fn a_table_of_queues_that_are_gone_is_refused(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    driver.destroy_object(&pairs[3].rx)?;
    refused(driver, &pairs, pairs[3].rx.handle)?;
    // Nor does its handle name the queue that was made in its place.
    let handle = pairs[0].handle;
    driver.create_object(handle, QueueType::Rq, None, Sizes::SMALL)?;
    refused(driver, &pairs, pairs[3].rx.handle)
}

fn a_table_of_other_queues_is_refused(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    let other = driver.open(1)?;
    for bad in [
        pairs[1].tx.handle,
        other.rx.handle,
        pairs[0].handle,
        0,
        u64::MAX,
    ] {
        refused(driver, &pairs, bad)?;
    }
    Ok(())
}

fn a_refused_request_changes_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = open(driver)?;
    let before = told(driver)?;
    driver.bench.on_queue(1);
    pairs[1].post_buffer(driver, 2048)?;
    let rss = Rss {
        enable: Some(false),
        key: Some([1; 40]),
        default: Some(7),
        table: Some(vec![pairs[1].rx.handle; 64]),
        ..Rss::default()
    };
    let request = rss.request(pairs[0].handle);
    driver.refuse(&request, Status::InvalidHandle)?;
    unchanged(driver, &before)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 1)?;
    // Nor does the next request apply anything of the refused one.
    change(driver, &pairs, &Rss::default())?;
    unchanged(driver, &before)
}

/// Checks that the device offers a table of this many entries, and accepts one.
fn table_of(driver: &mut Driver<'_>, caps: u64, entries: usize) -> Outcome {
    driver.start_with(caps)?;
    let found = driver.query_vport(0)?.num_indirection_ent;
    check_eq("entries of the table", found as usize, entries)?;
    let pairs = driver.open_pairs(0, PAIRS, Sizes::SMALL)?;
    let of = |entries| Rss {
        table: Some(in_turn(&pairs, entries)),
        ..Rss::default()
    };
    change(driver, &pairs, &of(entries))?;
    let expected = numbers_in_turn(PAIRS.into(), entries);
    check_eq("table", told(driver)?.table, expected)?;
    if entries < 256 {
        let request = of(2 * entries).request(pairs[0].handle);
        driver.refuse(&request, Status::InvalidParameter)?;
    }
    Ok(())
}

fn a_table_has_64_entries_for_older_drivers(driver: &mut Driver<'_>) -> Outcome {
    table_of(driver, 0, INDIRECTION_ENTRIES.into())
}

fn a_table_has_more_for_drivers_that_take_them(driver: &mut Driver<'_>) -> Outcome {
    table_of(driver, cap1::VARIABLE_INDIRECTION_TABLE, 256)
}

fn a_queue_that_goes_leaves_its_packets_to_the_default_queue(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    driver.destroy_object(&pairs[2].rx)?;
    let expected: Vec<u16> = [0, 1, 0, 3].into_iter().cycle().take(64).collect();
    check_eq("table", told(driver)?.table, expected)
}

fn a_default_queue_that_goes_has_a_successor(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = open(driver)?;
    driver.bench.on_queue(3);
    pairs[3].post_buffer(driver, 2048)?;
    driver.destroy_object(&pairs[0].rx)?;
    let told = told(driver)?;
    check_eq("default queue", told.default_queue, 1)?;
    check_eq("first entries", &told.table[..4], &[1, 1, 2, 3][..])?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 1)
}

fn with_the_last_queue_the_vport_stops_to_receive(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    for pair in &pairs {
        driver.destroy_object(&pair.rx)?;
    }
    let eq = Some(pairs[0].eq.id);
    let mut new = driver.create_object(pairs[0].handle, QueueType::Rq, eq, Sizes::SMALL)?;
    let address = driver.pages(1)?;
    new.wq.post(driver, &Wqe::receive(&[sge(address, 2048)]));
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    driver.enable_rx(pairs[0].handle, new.handle)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 1)?;
    check_eq("default queue", told(driver)?.default_queue, 0)
}

fn a_send_queue_that_goes_changes_nothing(driver: &mut Driver<'_>) -> Outcome {
    let pairs = open(driver)?;
    let before = told(driver)?;
    driver.destroy_object(&pairs[0].tx)?;
    unchanged(driver, &before)
}

fn a_reset_forgets_it(driver: &mut Driver<'_>) -> Outcome {
    open(driver)?;
    driver.bench.reset();
    driver.hwc = None;
    driver.start()?;
    let vport = driver.open(0)?;
    let told = told(driver)?;
    check_eq("table", told.table, [].into())?;
    check_eq("default queue", told.default_queue, 0)?;
    check_eq("key", &told.key[..], &[0; 40][..])?;
    driver.close(&vport)
}

/// Hash flags of a packet, and the hash type of its completion.
const KINDS: [(RxFlags, u16); 6] = [
    (RxFlags::IPV4.union(RxFlags::HASH_L3), hash::IPV4),
    (
        RxFlags::IPV4.union(RxFlags::TCP).union(RxFlags::HASH_L4),
        hash::TCP_IPV4,
    ),
    (
        RxFlags::IPV4.union(RxFlags::UDP).union(RxFlags::HASH_L4),
        hash::UDP_IPV4,
    ),
    (RxFlags::IPV6.union(RxFlags::HASH_L3), hash::IPV6),
    (
        RxFlags::IPV6.union(RxFlags::TCP).union(RxFlags::HASH_L4),
        hash::TCP_IPV6,
    ),
    (
        RxFlags::IPV6.union(RxFlags::UDP).union(RxFlags::HASH_L4),
        hash::UDP_IPV6,
    ),
];

/// Checks the hash in the next completion of a queue.
fn take_hash(driver: &mut Driver<'_>, pair: &mut Vport, frame: &[u8], hashtype: u16) -> Outcome {
    let completion = pair.rx.cq.expect(driver)?;
    pair.rx.cq.ring(driver, true);
    completion.check_type(CqeType::RxOkay as u8)?;
    let found = completion.receive();
    let expected = if hashtype == 0 { 0 } else { hash_of(frame) };
    check_eq(format!("hash in {completion:?}"), found.hash, expected)?;
    check_eq("type of the hash", found.flags.hashtype(), hashtype)?;
    check_eq("length", usize::from(found.length), frame.len())
}

fn a_completion_has_the_hash(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = open(driver)?;
    for (number, pair) in (0..).zip(&mut pairs) {
        driver.bench.on_queue(number);
        pair.post_buffer(driver, 2048)?;
        let frame = numbered_frame(60, number as u8);
        pair.arrive(driver, &frame, KINDS[1].0)?;
        take_hash(driver, pair, &frame, KINDS[1].1)?;
    }
    Ok(())
}

fn a_completion_says_what_the_hash_is_of(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = open(driver)?;
    let pair = &mut pairs[0];
    for (flags, hashtype) in KINDS {
        pair.post_buffer(driver, 2048)?;
        let frame = numbered_frame(60, hashtype as u8);
        pair.arrive(driver, &frame, flags)?;
        take_hash(driver, pair, &frame, hashtype)?;
    }
    Ok(())
}

fn a_packet_without_a_hash_has_none(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = open(driver)?;
    let pair = &mut pairs[0];
    for flags in [
        RxFlags::empty(),
        RxFlags::IPV4 | RxFlags::TCP,
        RxFlags::IPV6,
    ] {
        pair.post_buffer(driver, 2048)?;
        let frame = numbered_frame(60, 9);
        pair.arrive(driver, &frame, flags)?;
        take_hash(driver, pair, &frame, 0)?;
    }
    Ok(())
}

/// Has frames of all kinds arrive in one batch, in runs of one kind and mixed.
fn many_kinds(driver: &mut Driver<'_>, pieces: &[(u64, u32)]) -> Outcome {
    let mut pairs = open(driver)?;
    let pair = &mut pairs[0];
    let kinds = KINDS.into_iter().chain([(RxFlags::IPV4, 0)]);
    let kinds: Vec<_> = kinds
        .clone()
        .flat_map(|kind| [kind; 3])
        .chain(kinds)
        .collect();
    let address = driver.pages(1)?;
    let sgl: Vec<_> = pieces
        .iter()
        .map(|(at, size)| sge(address + at, *size))
        .collect();
    for _ in &kinds {
        pair.rx.wq.write(driver, &Wqe::receive(&sgl));
    }
    pair.rx.wq.ring(driver);
    let frames: Vec<_> = (0..kinds.len())
        .map(|number| numbered_frame(60 + number, number as u8))
        .collect();
    let arrivals = frames.iter().zip(&kinds);
    let arrivals: Vec<_> = arrivals.map(|(frame, kind)| (&frame[..], kind.0)).collect();
    let found = driver.bench.receive(0, &arrivals);
    check_eq("frames that found a buffer", found, kinds.len())?;
    for (frame, (_, hashtype)) in frames.iter().zip(&kinds) {
        take_hash(driver, pair, frame, *hashtype)?;
    }
    Ok(())
}

fn packets_of_many_kinds_keep_their_hashes(driver: &mut Driver<'_>) -> Outcome {
    many_kinds(driver, &[(0, 2048)])
}

fn buffers_of_many_pieces_have_hashes_too(driver: &mut Driver<'_>) -> Outcome {
    many_kinds(driver, &[(0, 32), (64, 32), (128, 1024)])
}

fn packets_that_share_a_completion_have_their_hashes(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = open(driver)?;
    let rss = Rss {
        coalesces: true,
        ..Rss::default()
    };
    change(driver, &pairs, &rss)?;
    let pair = &mut pairs[0];
    for _ in 0..4 {
        pair.post_buffer(driver, 2048)?;
    }
    let frames = [0, 1, 2, 3].map(|number| numbered_frame(60 + usize::from(number), number));
    let (flags, hashtype) = KINDS[4];
    let arrivals = frames.each_ref().map(|frame| (&frame[..], flags));
    check_eq("frames", driver.bench.receive(0, &arrivals), 4)?;
    let completion = pair.rx.cq.expect(driver)?;
    completion.check_type(CqeType::RxCoalesced4 as u8)?;
    let found = completion.receive();
    let hashes = frames.each_ref().map(|frame| hash_of(frame));
    check_eq("first hash", found.hash, hashes[0])?;
    check_eq("other hashes", &found.other_hashes[..], &hashes[1..])?;
    check_eq("type of the hashes", found.flags.hashtype(), hashtype)?;
    pair.rx.cq.expect_none(driver)
}
