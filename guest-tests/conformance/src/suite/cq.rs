//! Completion queues, and their events.

use alloc::vec::Vec;

use device_kit::platform::{RxFlags, TxStatus};
use mana_wire::gdma::Status;
use mana_wire::oob::CqeType;
use mana_wire::queue::{PAGE_SIZE, WQE_UNIT, eqe};

use crate::driver::Driver;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::frame;
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "cq":
    a_completion_raises_an_event_and_an_interrupt = "gdma_main.c: mana_gd_process_eqe, GDMA_EQE_COMPLETION",
    the_event_names_the_queue = "gdma_main.c: mana_gd_process_eqe, cq_id",
    raises_no_event_until_armed_again = "mana_en.c: mana_cq_handler, SET_ARM_BIT",
    arming_raises_an_event_for_what_is_left = "mana_en.c: mana_cq_handler, SET_ARM_BIT",
    arming_raises_nothing_if_all_is_consumed = "mana_en.c: mana_cq_handler",
    consuming_does_not_arm = "mana_en.c: mana_cq_handler (doorbell without arm bit)",
    consuming_does_not_disarm = "mana_en.c: mana_cq_handler (polls on one CPU, armed by another one)",
    an_event_waits_for_an_armed_event_queue = "gdma_main.c: mana_gd_process_eq_events",
    two_queues_share_one_interrupt = "mana_en.c: mana_create_txq (one EQ for both)",
    wraps_at_1_page = "gdma_main.c: mana_gd_read_cqe",
    wraps_at_2_pages = "gdma_main.c: mana_gd_read_cqe",
    wraps_at_4_pages = "gdma_main.c: mana_gd_read_cqe",
    wraps_at_8_pages = "gdma_main.c: mana_gd_read_cqe",
    may_be_silent_for_four_laps = "mana_en.c: mana_cq_handler (rings every 4 laps)",
    may_be_silent_for_eight_laps = "mana_en.c: mana_cq_handler (hardware wants one doorbell every 8 wraparounds)",
    may_be_silent_while_packets_are_pending = "mana_en.c: mana_cq_handler (hardware wants one doorbell every 8 wraparounds)",
    may_be_silent_for_eight_laps_of_received_packets = "mana_en.c: mana_cq_handler (hardware wants one doorbell every 8 wraparounds)",
    arms_behind_what_is_left_of_eight_laps = "mana_en.c: mana_cq_handler (hardware wants one doorbell every 8 wraparounds)",
    arms_after_laps_of_silence = "mana_en.c: mana_cq_handler, SET_ARM_BIT",
    an_overrun_overwrites_nothing = "gdma_main.c: mana_gd_read_cqe (overflow)",
    an_overrun_after_laps_overwrites_nothing = "gdma_main.c: mana_gd_read_cqe (overflow)",
    an_overrun_across_the_end_overwrites_nothing = "gdma_main.c: mana_gd_read_cqe (overflow)",
    goes_on_after_an_overrun = "gdma_main.c: mana_gd_read_cqe (overflow)",
    an_overrun_in_silence_overwrites_nothing = "gdma_main.c: mana_gd_read_cqe (overflow)",
    an_overrun_is_counted = "hostile guest: overrun of a CQ detected and reported",
    an_event_that_finds_no_room_comes_later = "gdma_main.c: mana_gd_process_eq_events",
    events_that_find_no_room_all_come_later = "gdma_main.c: mana_gd_process_eq_events",
    ignores_doorbells_that_go_backwards = "hostile guest: bad input, positions that go backwards",
    ignores_doorbells_beyond_what_was_posted = "hostile guest: bad input, positions beyond what was posted",
    ignores_doorbells_beyond_eight_laps = "gdma_main.c: GDMA_CQE_OWNER_BITS",
    ignores_doorbells_of_no_queue = "hostile guest: bad input, id 0",
    bits_beyond_the_entry_stay_untouched = "gdma.h: struct gdma_cqe",
}

fn packet(driver: &mut Driver<'_>, vport: &Vport) -> Outcome<Wqe> {
    let address = driver.place(&frame(60))?;
    Ok(vport.packet(&[sge(address, 60)]))
}

/// Checks that this many events are posted, all of them completions of this queue.
fn expect_events(driver: &mut Driver<'_>, vport: &mut Vport, cq: u32, count: usize) -> Outcome {
    let events = vport.eq.drain(driver)?;
    let found: Vec<_> = events
        .iter()
        .map(|e| (e.event_type, e.details[0]))
        .collect();
    check_eq("events", found, alloc::vec![(eqe::COMPLETION, cq); count])
}

fn a_completion_raises_an_event_and_an_interrupt(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.post(driver, &wqe);
    driver.expect_interrupts(vport.eq.vector, 1)?;
    let cq = vport.tx.cq.id;
    expect_events(driver, &mut vport, cq, 1)
}

fn the_event_names_the_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    let cq = vport.rx.cq.id;
    expect_events(driver, &mut vport, cq, 1)?;
    vport.eq.ring(driver, true);
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.post(driver, &wqe);
    let cq = vport.tx.cq.id;
    expect_events(driver, &mut vport, cq, 1)
}

fn raises_no_event_until_armed_again(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    for _ in 0..3 {
        vport.tx.wq.post(driver, &wqe);
    }
    expect_events(driver, &mut vport, cq, 1)?;
    check_eq("completions", vport.tx.cq.drain(driver)?.len(), 3)?;
    vport.tx.cq.ring(driver, true);
    vport.eq.ring(driver, true);
    expect_events(driver, &mut vport, cq, 0)?;
    vport.tx.wq.post(driver, &wqe);
    expect_events(driver, &mut vport, cq, 1)
}

fn arming_raises_an_event_for_what_is_left(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    vport.tx.wq.post(driver, &wqe);
    vport.tx.wq.post(driver, &wqe);
    expect_events(driver, &mut vport, cq, 1)?;
    vport.eq.ring(driver, true);
    vport.tx.cq.expect(driver)?;
    driver.take_interrupts(vport.eq.vector);
    vport.tx.cq.ring(driver, true);
    driver.expect_interrupts(vport.eq.vector, 1)?;
    expect_events(driver, &mut vport, cq, 1)
}

fn arming_raises_nothing_if_all_is_consumed(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    vport.transmit(driver, &wqe)?.expect(CqeType::TxOkay)?;
    expect_events(driver, &mut vport, cq, 1)?;
    vport.tx.cq.ring(driver, true);
    vport.tx.cq.ring(driver, true);
    expect_events(driver, &mut vport, cq, 0)
}

fn consuming_does_not_arm(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    vport.tx.wq.post(driver, &wqe);
    vport.tx.cq.expect(driver)?;
    vport.tx.cq.ring(driver, false);
    vport.tx.wq.post(driver, &wqe);
    expect_events(driver, &mut vport, cq, 1)
}

fn consuming_does_not_disarm(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    vport.tx.cq.ring(driver, true);
    vport.tx.cq.ring(driver, false);
    vport.tx.wq.post(driver, &wqe);
    expect_events(driver, &mut vport, cq, 1)
}

fn an_event_waits_for_an_armed_event_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = packet(driver, &vport)?;
    let vector = vport.eq.vector;
    vport.transmit(driver, &wqe)?.expect(CqeType::TxOkay)?;
    driver.expect_interrupts(vector, 1)?;
    // The event queue is not armed again: a new event, and no interrupt.
    vport.transmit(driver, &wqe)?.expect(CqeType::TxOkay)?;
    driver.expect_interrupts(vector, 0)?;
    vport.eq.next(driver)?;
    vport.eq.ring(driver, true);
    driver.expect_interrupts(vector, 1)
}

fn two_queues_share_one_interrupt(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, vector) = (packet(driver, &vport)?, vport.eq.vector);
    vport.post_buffer(driver, 2048)?;
    vport.tx.wq.post(driver, &wqe);
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    driver.expect_interrupts(vector, 1)?;
    let events = vport.eq.drain(driver)?;
    let queues: Vec<u32> = events.iter().map(|e| e.details[0]).collect();
    check_eq("queues", queues, [vport.tx.cq.id, vport.rx.cq.id].into())
}

fn wraps_at_1_page(driver: &mut Driver<'_>) -> Outcome {
    wraps(driver, 1)
}

fn wraps_at_2_pages(driver: &mut Driver<'_>) -> Outcome {
    wraps(driver, 2)
}

fn wraps_at_4_pages(driver: &mut Driver<'_>) -> Outcome {
    wraps(driver, 4)
}

fn wraps_at_8_pages(driver: &mut Driver<'_>) -> Outcome {
    wraps(driver, 8)
}

/// Returns a vport whose send queue holds as many WQEs as completions fit.
fn of_pages(driver: &mut Driver<'_>, pages: u32) -> Outcome<Vport> {
    driver.start()?;
    let sizes = Sizes {
        cq: pages * PAGE_SIZE,
        ..Sizes::LARGE
    };
    driver.open_with(0, sizes)
}

/// Uses a queue for nine laps, in batches that do not divide a lap.
fn wraps(driver: &mut Driver<'_>, pages: u32) -> Outcome {
    let mut vport = of_pages(driver, pages)?;
    let wqe = packet(driver, &vport)?;
    let entries = vport.tx.cq.ring.entries();
    let mut left = 9 * entries + 1;
    while left > 0 {
        let now = left.min(entries - 5);
        for _ in 0..now {
            vport.tx.wq.write(driver, &wqe);
        }
        vport.tx.wq.ring(driver);
        let found = vport.tx.cq.drain(driver)?;
        check_eq("completions", found.len(), now as usize)?;
        vport.tx.cq.ring(driver, true);
        left -= now;
    }
    Ok(())
}

fn may_be_silent_for_four_laps(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    // As many WQEs of the smallest size as completions, as in Linux.
    let sizes = Sizes {
        cq: 2 * PAGE_SIZE,
        ..Sizes::SMALL
    };
    let mut vport = driver.open_with(0, sizes)?;
    let wqe = packet(driver, &vport)?;
    for lap in 0..3 {
        for _ in 0..4 * vport.tx.cq.ring.entries() {
            vport.tx.wq.post(driver, &wqe);
            vport.tx.cq.expect(driver)?;
        }
        vport.tx.cq.ring(driver, lap == 1);
    }
    driver.bench.take_transmitted(0);
    vport.works(driver)
}

/// Returns a vport whose work queues hold many times as much as its completion queues, so
/// that their memory is not reused for laps.
fn of_large_work_queues(driver: &mut Driver<'_>) -> Outcome<Vport> {
    of_pages(driver, 1)
}

/// Sends and polls, a few packets at a time, for nearly eight laps without a
/// doorbell of the completion queue.
fn silent_laps(driver: &mut Driver<'_>, vport: &mut Vport, wqe: &Wqe) -> Outcome {
    const AT_A_TIME: u32 = 16;
    for batch in 0..8 * vport.tx.cq.ring.entries() / AT_A_TIME - 1 {
        let offsets = send(driver, vport, wqe, AT_A_TIME);
        let found = vport.tx.cq.drain(driver)?;
        let found: Vec<u32> = found.iter().map(|c| c.transmit().wqe_offset).collect();
        check_eq(
            alloc::format!("WQE offsets of batch {batch}"),
            found,
            offsets,
        )?;
    }
    Ok(())
}

fn may_be_silent_for_eight_laps(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_large_work_queues(driver)?;
    let wqe = packet(driver, &vport)?;
    for arm in [false, true, false] {
        silent_laps(driver, &mut vport, &wqe)?;
        vport.tx.cq.ring(driver, arm);
    }
    let pointer = alloc::format!("/queues/cq/{}/lost", vport.tx.cq.id);
    super::check_inspect(driver, &pointer, 0)?;
    driver.bench.take_transmitted(0);
    vport.works(driver)
}

/// The doorbell that ends eight laps does not cover the last of them.
fn arms_behind_what_is_left_of_eight_laps(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_large_work_queues(driver)?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    silent_laps(driver, &mut vport, &wqe)?;
    expect_events(driver, &mut vport, cq, 1)?;
    send(driver, &mut vport, &wqe, 16);
    vport.tx.cq.ring(driver, true);
    expect_events(driver, &mut vport, cq, 1)?;
    check_eq("completions", vport.tx.cq.drain(driver)?.len(), 16)
}

fn arms_after_laps_of_silence(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_large_work_queues(driver)?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    silent_laps(driver, &mut vport, &wqe)?;
    expect_events(driver, &mut vport, cq, 1)?;
    vport.eq.ring(driver, true);
    vport.tx.cq.ring(driver, true);
    expect_events(driver, &mut vport, cq, 0)?;
    vport.tx.wq.post(driver, &wqe);
    expect_events(driver, &mut vport, cq, 1)
}

fn may_be_silent_while_packets_are_pending(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_large_work_queues(driver)?;
    let wqe = packet(driver, &vport)?;
    for batch in 0..30 {
        driver.bench.plan_transmits(0, &[TxStatus::Pending; 16]);
        send(driver, &mut vport, &wqe, 16);
        vport.tx.cq.expect_none(driver)?;
        driver.bench.finish_transmit(0, &[TxStatus::Sent; 16]);
        let found = vport.tx.cq.drain(driver)?.len();
        check_eq(alloc::format!("completions of batch {batch}"), found, 16)?;
    }
    Ok(())
}

fn may_be_silent_for_eight_laps_of_received_packets(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_large_work_queues(driver)?;
    let address = driver.place(&[0; 64])?;
    let buffer = Wqe::receive(&[sge(address, 64)]);
    for batch in 0..8 * vport.rx.cq.ring.entries() / 16 - 1 {
        let mut write = |_| vport.rx.wq.write(driver, &buffer);
        let offsets: Vec<u32> = (0..16).map(&mut write).collect();
        vport.rx.wq.ring(driver);
        for _ in 0..16 {
            vport.arrive(driver, &frame(60), RxFlags::empty())?;
        }
        let found = vport.rx.cq.drain(driver)?;
        let found: Vec<u32> = found.iter().map(|c| c.receive().wqe_offset).collect();
        check_eq(
            alloc::format!("WQE offsets of batch {batch}"),
            found,
            offsets,
        )?;
    }
    vport.rx.cq.ring(driver, true);
    vport.works(driver)
}

/// Sends packets with one doorbell, and returns the units at which their WQEs begin.
fn send(driver: &mut Driver<'_>, vport: &mut Vport, wqe: &Wqe, count: u32) -> Vec<u32> {
    let mut write = |_| vport.tx.wq.write(driver, wqe) / WQE_UNIT;
    let offsets = (0..count).map(&mut write).collect();
    vport.tx.wq.ring(driver);
    offsets
}

/// Posts more than the completion queue holds, and consumes nothing.
fn overrun(driver: &mut Driver<'_>) -> Outcome<Vport> {
    let mut vport = of_pages(driver, 1)?;
    let wqe = packet(driver, &vport)?;
    let entries = vport.tx.cq.ring.entries();
    send(driver, &mut vport, &wqe, entries + 10);
    Ok(vport)
}

/// Checks that the completions are those of the first WQEs.
fn expect_first(driver: &mut Driver<'_>, vport: &mut Vport, offsets: &[u32]) -> Outcome {
    let found = vport.tx.cq.drain(driver)?;
    let found: Vec<u32> = found.iter().map(|c| c.transmit().wqe_offset).collect();
    let entries = vport.tx.cq.ring.entries() as usize;
    check_eq("WQE offsets", &found[..], &offsets[..entries])
}

fn an_overrun_overwrites_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = overrun(driver)?;
    let offsets: Vec<u32> = (0..vport.tx.cq.ring.entries()).collect();
    expect_first(driver, &mut vport, &offsets)
}

/// Many packets end at once, and the room for their completions ends in the middle of
/// the ring.
fn an_overrun_across_the_end_overwrites_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_pages(driver, 1)?;
    let wqe = packet(driver, &vport)?;
    send(driver, &mut vport, &wqe, 5);
    check_eq("completions", vport.tx.cq.drain(driver)?.len(), 5)?;
    vport.tx.cq.ring(driver, true);
    let mut statuses = [TxStatus::Sent; 31];
    statuses[30] = TxStatus::Pending;
    driver.bench.plan_transmits(0, &statuses);
    let more = vport.tx.cq.ring.entries() + 10;
    let offsets = send(driver, &mut vport, &wqe, more);
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    expect_first(driver, &mut vport, &offsets)
}

/// In each lap, completions name the right WQEs.
fn an_overrun_after_laps_overwrites_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_pages(driver, 1)?;
    let wqe = packet(driver, &vport)?;
    let entries = vport.tx.cq.ring.entries();
    let units = Sizes::LARGE.wq / WQE_UNIT;
    for _ in 0..=units / entries {
        send(driver, &mut vport, &wqe, entries);
        let found = vport.tx.cq.drain(driver)?;
        check_eq("completions", found.len(), entries as usize)?;
        vport.tx.cq.ring(driver, true);
    }
    let offsets = send(driver, &mut vport, &wqe, entries + 10);
    expect_first(driver, &mut vport, &offsets)
}

/// After laps without a doorbell, an overrun is still detected.
fn an_overrun_in_silence_overwrites_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_large_work_queues(driver)?;
    let wqe = packet(driver, &vport)?;
    silent_laps(driver, &mut vport, &wqe)?;
    let more = vport.tx.cq.ring.entries() + 10;
    let offsets = send(driver, &mut vport, &wqe, more);
    expect_first(driver, &mut vport, &offsets)
}

fn goes_on_after_an_overrun(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = overrun(driver)?;
    vport.tx.cq.drain(driver)?;
    vport.tx.cq.ring(driver, true);
    driver.bench.take_transmitted(0);
    vport.works(driver)
}

fn an_overrun_is_counted(driver: &mut Driver<'_>) -> Outcome {
    let vport = overrun(driver)?;
    let pointer = alloc::format!("/queues/cq/{}/lost", vport.tx.cq.id);
    super::check_inspect(driver, &pointer, 10)
}

fn an_event_that_finds_no_room_comes_later(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for _ in 0..vport.eq.ring.entries() {
        driver.test_eq(vport.eq.id)?.expect(Status::Success)?;
    }
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.post(driver, &wqe);
    let events = vport.eq.drain(driver)?;
    let tests = events.iter().all(|e| e.event_type == eqe::TEST_EVENT);
    check(tests, "an event overwrote another one")?;
    driver.take_interrupts(vport.eq.vector);
    vport.eq.ring(driver, true);
    driver.expect_interrupts(vport.eq.vector, 1)?;
    let cq = vport.tx.cq.id;
    expect_events(driver, &mut vport, cq, 1)?;
    vport.tx.cq.expect(driver).map(|_| ())
}

fn events_that_find_no_room_all_come_later(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    for _ in 0..vport.eq.ring.entries() {
        driver.test_eq(vport.eq.id)?.expect(Status::Success)?;
    }
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.post(driver, &wqe);
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.eq.drain(driver)?;
    vport.eq.ring(driver, true);
    let events = vport.eq.drain(driver)?;
    let mut queues: Vec<u32> = events.iter().map(|e| e.details[0]).collect();
    queues.sort_unstable();
    let mut expected = [vport.tx.cq.id, vport.rx.cq.id];
    expected.sort_unstable();
    check_eq("queues", queues, expected.into())
}

/// One completion is consumed and acknowledged; then an invalid doorbell must change
/// nothing.
fn ignored(driver: &mut Driver<'_>, tail: impl FnOnce(&Vport) -> u32) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (wqe, cq) = (packet(driver, &vport)?, vport.tx.cq.id);
    for _ in 0..2 {
        vport.tx.wq.post(driver, &wqe);
        vport.tx.cq.expect(driver)?;
    }
    vport.tx.cq.ring(driver, false);
    expect_events(driver, &mut vport, cq, 1)?;
    vport.eq.ring(driver, true);
    let tail = tail(&vport);
    driver.ring_cq(cq, tail, true);
    vport.tx.wq.post(driver, &wqe);
    vport.tx.cq.expect(driver)?;
    expect_events(driver, &mut vport, cq, 0)?;
    vport.tx.cq.ring(driver, true);
    vport.tx.wq.post(driver, &wqe);
    expect_events(driver, &mut vport, cq, 1)
}

fn ignores_doorbells_that_go_backwards(driver: &mut Driver<'_>) -> Outcome {
    ignored(driver, |vport| vport.tx.cq.ring.tail() - 1)
}

fn ignores_doorbells_beyond_what_was_posted(driver: &mut Driver<'_>) -> Outcome {
    ignored(driver, |vport| vport.tx.cq.ring.tail() + 1)
}

fn ignores_doorbells_beyond_eight_laps(driver: &mut Driver<'_>) -> Outcome {
    ignored(driver, |vport| {
        vport.tx.cq.ring.tail() + 8 * vport.tx.cq.ring.entries()
    })
}

fn ignores_doorbells_of_no_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for id in [0, 99, 0xff_ffff] {
        driver.ring_cq(id, 64, true);
    }
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    vport.works(driver)
}

fn bits_beyond_the_entry_stay_untouched(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = packet(driver, &vport)?;
    vport.transmit(driver, &wqe)?.expect(CqeType::TxOkay)?;
    let memory = vport.tx.cq.ring.memory.clone();
    let mut rest = alloc::vec![0; memory.size() as usize - 64];
    memory.read(driver.bench, 64, &mut rest);
    check(
        rest.iter().all(|byte| *byte == 0),
        "bytes after the one completion were written",
    )
}
