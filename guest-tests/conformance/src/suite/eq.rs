//! Event queues and their interrupts.

use mana_wire::gdma::{ChangeMsixReq, Status, code};
use mana_wire::queue::{QueueType, eqe};

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::ring::Eq;
use crate::failure::{Outcome, check_eq};

super::declare! { "eq":
    a_test_event_arrives_with_an_interrupt = "gdma_main.c: mana_gd_test_eq",
    is_armed_when_new = "gdma_main.c: mana_gd_create_eq",
    raises_the_vector_it_was_made_with = "gdma_main.c: mana_gd_register_irq",
    queues_may_share_a_vector = "gdma_main.c: mana_gd_register_irq",
    queues_that_share_a_vector_raise_it_once_together = "gdma_main.c: mana_gd_intr",
    raises_nothing_until_armed_again = "gdma_main.c: mana_gd_process_eq_events, SET_ARM_BIT",
    arming_raises_for_what_is_left = "gdma_main.c: mana_gd_process_eq_events, SET_ARM_BIT",
    arming_raises_nothing_if_all_is_consumed = "gdma_main.c: mana_gd_process_eq_events",
    arming_twice_raises_once = "gdma_main.c: mana_gd_process_eq_events",
    consuming_does_not_arm = "gdma_main.c: mana_gd_ring_cq, arm_bit",
    consuming_does_not_disarm = "openvmm mana_driver: CqEq::ack (rings without the arm bit when the interrupt has come)",
    wraps_at_1_page = "gdma_main.c: mana_gd_process_eq_events",
    wraps_at_2_pages = "gdma_main.c: mana_gd_process_eq_events",
    wraps_at_4_pages = "gdma_main.c: mana_gd_process_eq_events",
    wraps_at_8_pages = "gdma_main.c: mana_gd_process_eq_events",
    an_overrun_is_told_and_overwrites_nothing = "gdma_main.c: mana_gd_process_eq_events, EQ overflow",
    goes_on_after_an_overrun = "gdma_main.c: mana_gd_process_eq_events, EQ overflow",
    ignores_doorbells_that_go_backwards = "hostile guest: bad input, positions that go backwards",
    ignores_doorbells_beyond_what_was_posted = "hostile guest: bad input, positions beyond what was posted",
    ignores_doorbells_beyond_eight_laps = "gdma_main.c: GDMA_EQE_OWNER_BITS",
    ignores_doorbells_of_no_queue = "hostile guest: bad input, id 0",
    forgets_a_queue_that_ended = "gdma_main.c: mana_gd_disable_queue",
    moves_to_another_vector = "openvmm gdma_defs: GDMA_CHANGE_MSIX_FOR_EQ",
    moves_to_no_vector_beyond_the_table = "openvmm gdma_defs: GDMA_CHANGE_MSIX_FOR_EQ",
    moves_no_unknown_queue = "openvmm gdma_defs: GDMA_CHANGE_MSIX_FOR_EQ",
}

fn post(driver: &mut Driver<'_>, eq: &Eq) -> Outcome {
    driver.test_eq(eq.id)?.expect(Status::Success).map(|_| ())
}

/// Creates a started device and an event queue of a page on vector 5.
fn new(driver: &mut Driver<'_>) -> Outcome<Eq> {
    driver.start()?;
    driver.create_eq(5, 4096)
}

fn expect_tests(driver: &mut Driver<'_>, eq: &mut Eq, expected: usize) -> Outcome {
    let events = eq.drain(driver)?;
    let tests = events.iter().filter(|e| e.event_type == eqe::TEST_EVENT);
    check_eq(
        alloc::format!("test events in {events:?}"),
        (tests.count(), events.len()),
        (expected, expected),
    )
}

fn a_test_event_arrives_with_an_interrupt(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    eq.ring(driver, true);
    driver.expect_interrupts(5, 0)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)?;
    expect_tests(driver, &mut eq, 1)
}

fn is_armed_when_new(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
}

fn raises_the_vector_it_was_made_with(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for vector in [1, 63, 64] {
        let eq = driver.create_eq(vector, 4096)?;
        post(driver, &eq)?;
        driver.expect_interrupts(vector, 1)?;
        check_eq("other interrupts", driver.take_all_interrupts(), [].into())?;
    }
    Ok(())
}

fn queues_may_share_a_vector(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut first = driver.create_eq(9, 4096)?;
    let mut second = driver.create_eq(9, 4096)?;
    post(driver, &first)?;
    driver.expect_interrupts(9, 1)?;
    post(driver, &second)?;
    driver.expect_interrupts(9, 1)?;
    expect_tests(driver, &mut first, 1)?;
    expect_tests(driver, &mut second, 1)
}

fn queues_that_share_a_vector_raise_it_once_together(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    // The channel's own vector: the event and the answer come together.
    let mut eq = driver.create_eq(0, 4096)?;
    for _ in 0..3 {
        post(driver, &eq)?;
        expect_tests(driver, &mut eq, 1)?;
        eq.ring(driver, true);
    }
    check_eq("interrupts", driver.take_all_interrupts(), [].into())
}

fn raises_nothing_until_armed_again(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    for _ in 0..3 {
        post(driver, &eq)?;
    }
    driver.expect_interrupts(5, 1)?;
    expect_tests(driver, &mut eq, 3)?;
    eq.ring(driver, true);
    driver.expect_interrupts(5, 0)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
}

fn arming_raises_for_what_is_left(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    post(driver, &eq)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)?;
    eq.next(driver)?;
    eq.ring(driver, true);
    driver.expect_interrupts(5, 1)
}

fn arming_raises_nothing_if_all_is_consumed(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)?;
    expect_tests(driver, &mut eq, 1)?;
    eq.ring(driver, true);
    driver.expect_interrupts(5, 0)
}

fn arming_twice_raises_once(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)?;
    expect_tests(driver, &mut eq, 1)?;
    eq.ring(driver, true);
    eq.ring(driver, true);
    post(driver, &eq)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
}

fn consuming_does_not_arm(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)?;
    expect_tests(driver, &mut eq, 1)?;
    eq.ring(driver, false);
    post(driver, &eq)?;
    driver.expect_interrupts(5, 0)
}

fn consuming_does_not_disarm(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    eq.ring(driver, true);
    eq.ring(driver, false);
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
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

/// Uses a queue for nine laps, one more than the owner bits distinguish.
fn wraps(driver: &mut Driver<'_>, pages: u32) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(5, pages * 4096)?;
    let entries = eq.ring.entries();
    let batch = entries / 8 - 1;
    let mut left = 9 * entries + 5;
    while left > 0 {
        let now = left.min(batch);
        for _ in 0..now {
            post(driver, &eq)?;
        }
        driver.expect_interrupts(5, 1)?;
        expect_tests(driver, &mut eq, now as usize)?;
        eq.ring(driver, true);
        left -= now;
    }
    driver.expect_interrupts(5, 0)
}

fn fill(driver: &mut Driver<'_>, eq: &Eq) -> Outcome {
    for _ in 0..eq.ring.entries() {
        post(driver, eq)?;
    }
    driver.test_eq(eq.id)?.expect(Status::NoResources)?;
    Ok(())
}

fn an_overrun_is_told_and_overwrites_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    fill(driver, &eq)?;
    driver.test_eq(eq.id)?.expect(Status::NoResources)?;
    let entries = eq.ring.entries() as usize;
    expect_tests(driver, &mut eq, entries)
}

fn goes_on_after_an_overrun(driver: &mut Driver<'_>) -> Outcome {
    let mut eq = new(driver)?;
    fill(driver, &eq)?;
    eq.next(driver)?;
    eq.ring(driver, false);
    post(driver, &eq)?;
    driver.test_eq(eq.id)?.expect(Status::NoResources)?;
    let entries = eq.ring.entries() as usize;
    expect_tests(driver, &mut eq, entries)?;
    eq.ring(driver, true);
    driver.take_interrupts(5);
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)?;
    expect_tests(driver, &mut eq, 1)
}

/// Two events are consumed and one is acknowledged; then an invalid doorbell must
/// change nothing.
fn ignored(driver: &mut Driver<'_>, tail: impl FnOnce(&Eq) -> u32) -> Outcome {
    let mut eq = new(driver)?;
    for _ in 0..2 {
        post(driver, &eq)?;
        driver.take_interrupts(5);
        expect_tests(driver, &mut eq, 1)?;
    }
    eq.ring(driver, false);
    let tail = tail(&eq);
    driver.ring_eq(eq.id, tail, true);
    post(driver, &eq)?;
    driver.expect_interrupts(5, 0)?;
    expect_tests(driver, &mut eq, 1)?;
    eq.ring(driver, true);
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
}

fn ignores_doorbells_that_go_backwards(driver: &mut Driver<'_>) -> Outcome {
    ignored(driver, |eq| eq.ring.tail() - 1)
}

fn ignores_doorbells_beyond_what_was_posted(driver: &mut Driver<'_>) -> Outcome {
    ignored(driver, |eq| eq.ring.tail() + 1)
}

fn ignores_doorbells_beyond_eight_laps(driver: &mut Driver<'_>) -> Outcome {
    ignored(driver, |eq| eq.ring.tail() + 8 * eq.ring.entries())
}

fn ignores_doorbells_of_no_queue(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    for id in [0, 99, 0xffff] {
        for tail in [0, 256, 0x7fff_ffff] {
            driver.ring_eq(id, tail, true);
        }
    }
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
}

fn forgets_a_queue_that_ended(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    driver.destroy_queue(QueueType::Eq, eq.id)?;
    eq.ring(driver, true);
    driver.test_eq(eq.id)?.expect(Status::InvalidHandle)?;
    driver.expect_interrupts(5, 0)
}

fn change_msix(id: u32, msix: u32) -> Request {
    let body = ChangeMsixReq {
        queue_index: id,
        msix,
        reserved: [0; 2],
    };
    Request::new(code::CHANGE_MSIX_FOR_EQ, &body, 0)
}

fn moves_to_another_vector(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    driver.succeed(&change_msix(eq.id, 64))?;
    post(driver, &eq)?;
    driver.expect_interrupts(64, 1)?;
    driver.expect_interrupts(5, 0)
}

fn moves_to_no_vector_beyond_the_table(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    for vector in [65, 0x1_0005, u32::MAX] {
        let request = change_msix(eq.id, vector);
        driver.refuse(&request, Status::InvalidParameter)?;
    }
    post(driver, &eq)?;
    driver.expect_interrupts(5, 1)
}

fn moves_no_unknown_queue(driver: &mut Driver<'_>) -> Outcome {
    let eq = new(driver)?;
    driver.refuse(&change_msix(0, 1), Status::InvalidHandle)?;
    driver.refuse(&change_msix(eq.id + 1, 1), Status::InvalidHandle)
}
