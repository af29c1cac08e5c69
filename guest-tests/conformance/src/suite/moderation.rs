//! Interrupts that wait, as a driver says.

use alloc::vec::Vec;

use device_kit::platform::RxFlags;
use mana_wire::bnic::{
    CreateWqObjMore, CreateWqObjReq, CreateWqObjResp, CreateWqObjRespV2, NO_EQ, code,
};
use mana_wire::gdma::{ChangeMsixReq, Status, cap1, code as gdma_code};
use mana_wire::queue::{DimDoorbell, QueueType, doorbell, eqe};
use zerocopy::IntoBytes;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::ring::Cq;
use crate::driver::traffic::frame;
use crate::driver::wqe::sge;
use crate::failure::{Outcome, check_eq};

super::declare! { "moderation":
    is_announced = "gdma.h: GDMA_PF_CAP_FLAG_1_DYN_INTERRUPT_MODERATION",
    the_answer_says_what_is_in_effect = "mana.h: struct mana_create_wqobj_resp, V2",
    more_than_a_driver_may_ask_for_is_lowered = "mana.h: MANA_INTR_MODR_USEC_MAX, MANA_INTR_MODR_COMP_MAX",
    a_queue_that_does_not_ask_has_none = "mana_en.c: mana_create_rxq, req_cq_moderation",
    an_answer_of_version_1_is_enough = "mana_en.c: mana_create_wq_obj (7.0)",
    a_request_of_version_3_has_it = "mana.h: struct mana_create_wqobj_req, V3",
    requests_of_earlier_versions_are_not_moderated = "mana_en.c: mana_create_wq_obj (7.0)",
    an_interrupt_waits = "mana_en.c: mana_create_rxq, cq_moderation_usec",
    the_event_does_not_wait = "gdma_main.c: mana_gd_process_eq_events (a driver looks when there is an interrupt)",
    enough_completions_end_the_wait_once = "mana_en.c: mana_create_rxq, cq_moderation_comp",
    enough_completions_at_once_do_not_wait = "mana_en.c: mana_create_rxq, cq_moderation_comp",
    gathering_begins_anew_after_an_interrupt = "mana_en.c: mana_cq_handler, SET_ARM_BIT",
    polling_ends_no_wait = "mana_en.c: mana_cq_handler (polls without a doorbell)",
    without_both_limits_nothing_waits = "mana_en.c: mana_create_rxq (both limits, or none)",
    sends_wait_too = "mana_en.c: mana_create_txq, cq_moderation_usec",
    the_shorter_wait_of_two_queues_counts = "mana_en.c: mana_create_txq (one EQ for both)",
    a_queue_without_moderation_does_not_wait_for_another = "mana_en.c: mana_create_txq (one EQ for both)",
    a_queue_with_moderation_does_not_wait_for_another = "mana_en.c: mana_create_txq (one EQ for both)",
    what_is_left_waits_when_the_event_queue_is_armed = "gdma_main.c: mana_gd_process_eq_events, SET_ARM_BIT",
    an_event_queue_that_is_not_armed_raises_nothing = "gdma_main.c: mana_gd_process_eq_events, SET_ARM_BIT",
    a_doorbell_changes_both_limits = "mana_en.c: mana_rx_dim_work, mana_gd_ring_dim",
    a_doorbell_changes_either_limit = "gdma.h: union gdma_doorbell_entry, mod_usec_vld, mod_comps_vld",
    a_doorbell_that_says_nothing_changes_nothing = "gdma.h: union gdma_doorbell_entry, mod_usec_vld, mod_comps_vld",
    a_doorbell_begins_it = "mana_ethtool.c: mana_set_coalesce (without making queues anew)",
    a_doorbell_ends_it = "mana_ethtool.c: mana_set_coalesce (without making queues anew)",
    a_doorbell_hastens_what_waits = "mana_en.c: mana_rx_dim_work (under traffic)",
    a_doorbell_delays_nothing_that_waits = "mana_en.c: mana_rx_dim_work (under traffic)",
    reserved_bits_of_a_doorbell_change_nothing = "gdma.h: union gdma_doorbell_entry, dim",
    ignores_doorbells_of_no_queue = "hostile guest: bad input, ids of no queue and beyond all",
    a_driver_that_does_not_know_has_none = "gdma.h: GDMA_DRV_CAP_FLAG_1_DYN_INTERRUPT_MODERATION",
    a_doorbell_of_a_driver_that_does_not_know_is_ignored = "gdma.h: GDMA_DRV_CAP_FLAG_1_DYN_INTERRUPT_MODERATION",
    what_waits_moves_to_another_vector = "openvmm gdma_defs: GDMA_CHANGE_MSIX_FOR_EQ",
    a_queue_may_end_while_its_interrupt_waits = "mana_en.c: mana_destroy_rxq",
    is_forgotten_with_the_driver = "mana_en.c: mana_probe_port",
    is_shown = "the device's state, as people read it",
}

/// The capabilities of a driver that moderates.
const KNOWS: u64 = cap1::HWC_TIMEOUT_RECONFIG | cap1::HW_VPORT_LINK_AWARE | cap1::DRIVER_MODERATION;
/// The vector of the first vport.
const VECTOR: u16 = 1;

fn limits(completions: u16, usec: u16) -> CreateWqObjMore {
    CreateWqObjMore {
        req_cq_moderation: 1,
        cq_moderation_comp: completions,
        cq_moderation_usec: usec,
        ..CreateWqObjMore::default()
    }
}

/// Returns a started device with a vport whose receive queue has these limits, and whose send
/// queue is not moderated.
fn open(driver: &mut Driver<'_>, completions: u16, usec: u16) -> Outcome<Vport> {
    let none = CreateWqObjMore::default();
    open_both(driver, none, limits(completions, usec))
}

fn open_both(driver: &mut Driver<'_>, tx: CreateWqObjMore, rx: CreateWqObjMore) -> Outcome<Vport> {
    driver.start_with(KNOWS)?;
    let vport = driver.open_moderated(0, tx, rx)?;
    driver.take_interrupts(VECTOR);
    driver.bench.take_delayed();
    Ok(vport)
}

/// Has this many packets arrive, each in a batch of its own.
fn arrive(driver: &mut Driver<'_>, vport: &mut Vport, count: usize) -> Outcome {
    for _ in 0..count {
        vport.post_buffer(driver, 256)?;
        vport.arrive(driver, &frame(60), RxFlags::empty())?;
    }
    Ok(())
}

fn send(driver: &mut Driver<'_>, vport: &mut Vport) -> Outcome {
    let address = driver.place(&frame(60))?;
    let packet = vport.packet(&[sge(address, 60)]);
    vport.tx.wq.post(driver, &packet);
    Ok(())
}

/// Checks that the vport's vector was raised at once this often since the last check, and with
/// these waits in microseconds.
fn raised(driver: &mut Driver<'_>, at_once: usize, waits: &[u32]) -> Outcome {
    let delayed = driver.bench.take_delayed();
    let expected: Vec<_> = waits.iter().map(|wait| (VECTOR, *wait)).collect();
    check_eq("interrupts that wait", delayed, expected)?;
    driver.expect_interrupts(VECTOR, at_once)
}

/// Handles an interrupt as Linux does: takes the events, arms the event queue, polls the
/// receive queue, and arms its completion queue.
fn handle(driver: &mut Driver<'_>, vport: &mut Vport, completions: usize) -> Outcome {
    vport.eq.drain(driver)?;
    vport.eq.ring(driver, true);
    let done = vport.rx.cq.drain(driver)?;
    check_eq("completions", done.len(), completions)?;
    vport.rx.cq.ring(driver, true);
    Ok(())
}

fn is_announced(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    for capabilities in [0, KNOWS] {
        let found = driver.verify_version(capabilities)?.pf_cap_flags[0];
        check_eq("capability", found & cap1::MODERATION, cap1::MODERATION)?;
    }
    Ok(())
}

/// Makes a receive queue, and returns the moderation in the answer: whether it is on, and its
/// limits.
fn answered(driver: &mut Driver<'_>, more: CreateWqObjMore) -> Outcome<(u8, u16, u16)> {
    let vport = driver.query_vport(0)?.vport;
    let (object, resp) = driver.create_moderated(vport, QueueType::Rq, None, more)?;
    driver.destroy_object(&object)?;
    Ok((
        resp.cq_moderation_enabled,
        resp.cq_moderation_comp,
        resp.cq_moderation_usec,
    ))
}

fn the_answer_says_what_is_in_effect(driver: &mut Driver<'_>) -> Outcome {
    driver.start_with(KNOWS)?;
    for (completions, usec) in [(32, 64), (0, 0), (255, 1023), (1, 0), (0, 1)] {
        let found = answered(driver, limits(completions, usec))?;
        check_eq("moderation", found, (1, completions, usec))?;
    }
    Ok(())
}

fn more_than_a_driver_may_ask_for_is_lowered(driver: &mut Driver<'_>) -> Outcome {
    driver.start_with(KNOWS)?;
    for (asked, given) in [
        ((256, 1024), (1, 255, 1023)),
        ((u16::MAX, u16::MAX), (1, 255, 1023)),
        ((256, 7), (1, 255, 7)),
        ((7, 1024), (1, 7, 1023)),
    ] {
        let found = answered(driver, limits(asked.0, asked.1))?;
        check_eq("moderation", found, given)?;
    }
    let mut vport = driver.open_moderated(0, CreateWqObjMore::default(), limits(256, 1024))?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[1023])
}

fn a_queue_that_does_not_ask_has_none(driver: &mut Driver<'_>) -> Outcome {
    let none = CreateWqObjMore {
        req_cq_moderation: 0,
        ..limits(8, 100)
    };
    let mut vport = open_both(driver, none, none)?;
    check_eq("moderation", answered(driver, none)?, (0, 0, 0))?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 1, &[])
}

/// Makes the receive queue of a vport by a request with these bytes and versions, and has a
/// packet arrive.
fn made_by(
    driver: &mut Driver<'_>,
    versions: (u16, u16),
    more: &[u8],
    room: usize,
) -> Outcome<Vport> {
    let mut vport = open(driver, 8, 100)?;
    driver.disable_rx(vport.handle)?;
    driver.destroy_object(&vport.rx)?;
    let (eq, sizes) = (Some(vport.eq.id), Sizes::SMALL);
    let (body, wq, cq) = driver.prepare_object(vport.handle, QueueType::Rq, eq, sizes)?;
    let bytes = [body.as_bytes(), more].concat();
    let request = Request::of_bytes(code::CREATE_WQ_OBJ, &bytes, room);
    let made: CreateWqObjResp = driver.ask(&request.versions(versions.0, versions.1))?;
    vport.rx.wq.id = made.wq_id;
    (vport.rx.wq.memory, vport.rx.wq.head) = (wq, 0);
    vport.rx.cq = Cq::new(made.cq_id, cq);
    vport.rx.handle = made.wq_obj;
    vport.rx.cq.ring(driver, true);
    driver.enable_rx(vport.handle, vport.rx.handle)?;
    arrive(driver, &mut vport, 1)?;
    Ok(vport)
}

fn an_answer_of_version_1_is_enough(driver: &mut Driver<'_>) -> Outcome {
    let more = limits(8, 200);
    let room = size_of::<CreateWqObjResp>();
    made_by(driver, (3, 1), more.as_bytes(), room)?;
    raised(driver, 0, &[200])
}

fn a_request_of_version_3_has_it(driver: &mut Driver<'_>) -> Outcome {
    driver.start_with(KNOWS)?;
    let body = CreateWqObjReq {
        vport: driver.query_vport(0)?.vport,
        wq_type: QueueType::Rq.to_wire(),
        reserved: 0,
        wq_gdma_region: 0,
        cq_gdma_region: 0,
        wq_size: 4096,
        cq_size: 4096,
        cq_moderation_ctx_id: 0,
        cq_parent_qid: NO_EQ,
    };
    let more = limits(8, 200);
    for left_out in [1, size_of::<CreateWqObjMore>()] {
        let kept = &more.as_bytes()[left_out..];
        let bytes = [body.as_bytes(), kept].concat();
        let size = size_of::<CreateWqObjRespV2>();
        let request = Request::of_bytes(code::CREATE_WQ_OBJ, &bytes, size).versions(3, 2);
        driver.refuse(&request, Status::TooShort)?;
    }
    Ok(())
}

fn requests_of_earlier_versions_are_not_moderated(driver: &mut Driver<'_>) -> Outcome {
    let more = limits(8, 200);
    let room = size_of::<CreateWqObjRespV2>();
    made_by(driver, (2, 2), more.as_bytes(), room)?;
    raised(driver, 1, &[])
}

fn an_interrupt_waits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    for _ in 0..3 {
        arrive(driver, &mut vport, 1)?;
        raised(driver, 0, &[100])?;
        handle(driver, &mut vport, 1)?;
        raised(driver, 0, &[])?;
    }
    Ok(())
}

fn the_event_does_not_wait(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    arrive(driver, &mut vport, 3)?;
    let events = vport.eq.drain(driver)?;
    let found: Vec<_> = events
        .iter()
        .map(|it| (it.event_type, it.details[0]))
        .collect();
    check_eq("events", found, [(eqe::COMPLETION, vport.rx.cq.id)].into())
}

fn enough_completions_end_the_wait_once(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 4, 100)?;
    arrive(driver, &mut vport, 3)?;
    raised(driver, 0, &[100])?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[0])?;
    arrive(driver, &mut vport, 5)?;
    raised(driver, 0, &[])
}

fn enough_completions_at_once_do_not_wait(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 4, 100)?;
    for _ in 0..4 {
        vport.post_buffer(driver, 256)?;
    }
    let frame = frame(60);
    let frames = [(&frame[..], RxFlags::empty()); 4];
    check_eq("frames", driver.bench.receive(0, &frames), 4)?;
    raised(driver, 0, &[0])
}

fn gathering_begins_anew_after_an_interrupt(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 4, 100)?;
    for _ in 0..3 {
        arrive(driver, &mut vport, 3)?;
        raised(driver, 0, &[100])?;
        handle(driver, &mut vport, 3)?;
        arrive(driver, &mut vport, 4)?;
        raised(driver, 0, &[100, 0])?;
        handle(driver, &mut vport, 4)?;
    }
    Ok(())
}

fn polling_ends_no_wait(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open_both(driver, limits(8, 300), limits(4, 100))?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])?;
    // The receive queue is being polled, so its completions gather for no interrupt; that for
    // the send queue still waits.
    vport.eq.drain(driver)?;
    vport.eq.ring(driver, true);
    send(driver, &mut vport)?;
    raised(driver, 0, &[300])?;
    arrive(driver, &mut vport, 8)?;
    raised(driver, 0, &[])?;
    let done = vport.rx.cq.drain(driver)?;
    check_eq("completions", done.len(), 9)
}

fn without_both_limits_nothing_waits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 0, 0)?;
    for (completions, usec) in [(0, 0), (0, 100), (1, 100), (8, 0)] {
        driver.ring_dim(vport.rx.cq.id, Some(completions), Some(usec));
        arrive(driver, &mut vport, 1)?;
        raised(driver, 0, &[0])?;
        arrive(driver, &mut vport, 1)?;
        raised(driver, 0, &[])?;
        handle(driver, &mut vport, 2)?;
    }
    Ok(())
}

fn sends_wait_too(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open_both(driver, limits(3, 70), limits(8, 100))?;
    for waits in [&[70][..], &[], &[0]] {
        send(driver, &mut vport)?;
        raised(driver, 0, waits)?;
    }
    Ok(())
}

fn the_shorter_wait_of_two_queues_counts(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open_both(driver, limits(8, 500), limits(8, 50))?;
    send(driver, &mut vport)?;
    raised(driver, 0, &[500])?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[50])?;
    handle(driver, &mut vport, 1)?;
    check_eq("completions", vport.tx.cq.drain(driver)?.len(), 1)?;
    vport.tx.cq.ring(driver, true);
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[50])?;
    send(driver, &mut vport)?;
    raised(driver, 0, &[])
}

fn a_queue_without_moderation_does_not_wait_for_another(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])?;
    send(driver, &mut vport)?;
    raised(driver, 1, &[])
}

fn a_queue_with_moderation_does_not_wait_for_another(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    send(driver, &mut vport)?;
    raised(driver, 1, &[])?;
    // A host may defer that interrupt for longer.
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])
}

fn what_is_left_waits_when_the_event_queue_is_armed(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open_both(driver, limits(8, 500), limits(8, 50))?;
    send(driver, &mut vport)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[500, 50])?;
    vport.eq.next(driver)?;
    vport.eq.ring(driver, true);
    raised(driver, 0, &[50])
}

fn an_event_queue_that_is_not_armed_raises_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open_both(driver, limits(8, 500), limits(3, 50))?;
    send(driver, &mut vport)?;
    raised(driver, 0, &[500])?;
    vport.eq.drain(driver)?;
    vport.eq.ring(driver, false);
    arrive(driver, &mut vport, 2)?;
    raised(driver, 0, &[])?;
    vport.eq.ring(driver, true);
    raised(driver, 0, &[50])?;
    vport.eq.drain(driver)?;
    vport.eq.ring(driver, false);
    send(driver, &mut vport)?;
    arrive(driver, &mut vport, 5)?;
    raised(driver, 0, &[])
}

fn a_doorbell_changes_both_limits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    for (completions, usec) in [(2, 1023), (3, 1), (2, 64)] {
        driver.ring_dim(vport.rx.cq.id, Some(completions), Some(usec));
        arrive(driver, &mut vport, completions as usize)?;
        raised(driver, 0, &[usec.into(), 0])?;
        handle(driver, &mut vport, completions as usize)?;
    }
    Ok(())
}

fn a_doorbell_changes_either_limit(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 3, 100)?;
    driver.ring_dim(vport.rx.cq.id, None, Some(200));
    arrive(driver, &mut vport, 3)?;
    raised(driver, 0, &[200, 0])?;
    handle(driver, &mut vport, 3)?;
    driver.ring_dim(vport.rx.cq.id, Some(2), None);
    arrive(driver, &mut vport, 2)?;
    raised(driver, 0, &[200, 0])
}

fn a_doorbell_that_says_nothing_changes_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 2, 100)?;
    let bits = DimDoorbell::new()
        .with_id(vport.rx.cq.id)
        .with_completions(9)
        .with_usec(9);
    driver.doorbell(doorbell::DIM, bits.into_bits());
    let bits = bits.with_id(vport.tx.cq.id);
    driver.doorbell(doorbell::DIM, bits.into_bits());
    arrive(driver, &mut vport, 2)?;
    raised(driver, 0, &[100, 0])?;
    handle(driver, &mut vport, 2)?;
    send(driver, &mut vport)?;
    raised(driver, 1, &[])
}

fn a_doorbell_begins_it(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    driver.ring_dim(vport.tx.cq.id, Some(2), Some(30));
    for waits in [&[30][..], &[0]] {
        send(driver, &mut vport)?;
        raised(driver, 0, waits)?;
    }
    Ok(())
}

fn a_doorbell_ends_it(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    driver.ring_dim(vport.rx.cq.id, Some(0), Some(0));
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[0])
}

fn a_doorbell_hastens_what_waits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 1000)?;
    let cq = vport.rx.cq.id;
    arrive(driver, &mut vport, 2)?;
    raised(driver, 0, &[1000])?;
    driver.ring_dim(cq, None, Some(10));
    raised(driver, 0, &[10])?;
    driver.ring_dim(cq, Some(2), None);
    raised(driver, 0, &[0])?;
    handle(driver, &mut vport, 2)?;
    driver.ring_dim(cq, Some(8), Some(1000));
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[1000])?;
    driver.ring_dim(cq, Some(0), Some(0));
    raised(driver, 0, &[0])
}

fn a_doorbell_delays_nothing_that_waits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])?;
    driver.ring_dim(vport.rx.cq.id, Some(9), Some(500));
    raised(driver, 0, &[])?;
    handle(driver, &mut vport, 1)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[500])
}

fn reserved_bits_of_a_doorbell_change_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    let bits = DimDoorbell::new()
        .with_id(vport.rx.cq.id)
        .with_is_usec_valid(true)
        .with_usec(300);
    let reserved = 0xff << 24 | 0x1f << 42 | 0x7f << 56;
    driver.doorbell(doorbell::DIM, bits.into_bits() | reserved);
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[300])
}

fn ignores_doorbells_of_no_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    for id in [0, 5000, 0xff_ffff, vport.tx.cq.id + 0x1_0000] {
        driver.ring_dim(id, Some(1), Some(1));
    }
    super::check_inspect(driver, "/faults/bad_doorbells", 4)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])?;
    send(driver, &mut vport)?;
    raised(driver, 1, &[])
}

fn a_driver_that_does_not_know_has_none(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let more = limits(8, 100);
    check_eq("moderation", answered(driver, more)?, (0, 0, 0))?;
    let mut vport = driver.open_moderated(0, more, more)?;
    driver.take_interrupts(VECTOR);
    arrive(driver, &mut vport, 1)?;
    raised(driver, 1, &[])?;
    handle(driver, &mut vport, 1)?;
    send(driver, &mut vport)?;
    raised(driver, 1, &[])
}

fn a_doorbell_of_a_driver_that_does_not_know_is_ignored(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.take_interrupts(VECTOR);
    driver.ring_dim(vport.rx.cq.id, Some(8), Some(100));
    super::check_inspect(driver, "/faults/stray_accesses", 1)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 1, &[])
}

fn what_waits_moves_to_another_vector(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])?;
    let body = ChangeMsixReq {
        queue_index: vport.eq.id,
        msix: 9,
        reserved: [0; 2],
    };
    driver.succeed(&Request::new(gdma_code::CHANGE_MSIX_FOR_EQ, &body, 0))?;
    let delayed = driver.bench.take_delayed();
    check_eq("interrupts that wait", delayed, [(9, 100)].into())
}

fn a_queue_may_end_while_its_interrupt_waits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver, 8, 100)?;
    arrive(driver, &mut vport, 1)?;
    raised(driver, 0, &[100])?;
    driver.disable_rx(vport.handle)?;
    driver.destroy_object(&vport.rx)?;
    driver.ring_dim(vport.rx.cq.id, Some(0), Some(0));
    raised(driver, 0, &[])?;
    send(driver, &mut vport)?;
    raised(driver, 1, &[])
}

fn is_forgotten_with_the_driver(driver: &mut Driver<'_>) -> Outcome {
    open(driver, 8, 100)?;
    driver.deregister()?;
    driver.register()?;
    let mut vport = driver.open(0)?;
    driver.take_interrupts(VECTOR);
    arrive(driver, &mut vport, 1)?;
    raised(driver, 1, &[])
}

fn is_shown(driver: &mut Driver<'_>) -> Outcome {
    let vport = open(driver, 8, 100)?;
    let shown = alloc::format!("/queues/cq/{}/moderation", vport.rx.cq.id);
    let check_shown = |driver: &mut Driver<'_>, completions, usec| {
        super::check_inspect(driver, &alloc::format!("{shown}/completions"), completions)?;
        super::check_inspect(driver, &alloc::format!("{shown}/usec"), usec)
    };
    check_shown(driver, 8, 100)?;
    driver.ring_dim(vport.rx.cq.id, Some(9), Some(200));
    check_shown(driver, 9, 200)?;
    let other = alloc::format!("/queues/cq/{}/moderation", vport.tx.cq.id);
    let found = driver.inspect(&other)?;
    let is_none = found.is_none_or(|found| found.is_null());
    check_eq("a queue without moderation shows none", is_none, true)
}
