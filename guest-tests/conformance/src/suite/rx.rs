//! Receive: buffers, frames, completions.

use alloc::vec;
use alloc::vec::Vec;

use device_kit::platform::RxFlags;
use mana_wire::gdma::Status;
use mana_wire::oob::CqeType;
use mana_wire::queue::{CQE_SIZE, PAGE_SIZE, QueueType, WQE_UNIT};

use crate::bench::MEMORY_SIZE;
use crate::driver::Driver;
use crate::driver::entry::{Completion, CqeName};
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::{frame, numbered_frame};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check_eq};

super::declare! { "rx":
    takes_1_byte = "mana_en.c: mana_process_rx_cqe",
    takes_the_shortest_frame = "mana_en.c: mana_process_rx_cqe",
    takes_the_longest_frame = "mana_en.c: mana_process_rx_cqe",
    takes_a_jumbo_frame = "mana_en.c: mana_get_rxbuf_cfg",
    takes_a_frame_that_fits_exactly = "mana_en.c: mana_process_rx_cqe",
    cuts_a_frame_that_does_not_fit = "mana.h: CQE_RX_TRUNCATED; reference: write_data panics",
    writes_nothing_behind_a_buffer = "mana.h: CQE_RX_TRUNCATED",
    goes_on_after_a_cut_frame = "mana_en.c: mana_process_rx_cqe, CQE_RX_TRUNCATED",
    takes_1_to_15_pieces = "gdma.h: MAX_RX_WQE_SGL_ENTRIES",
    skips_empty_pieces = "gdma.h: struct gdma_sge",
    a_buffer_of_16_pieces_is_given_back = "gdma.h: GDMA_MAX_RQE_SIZE",
    a_buffer_without_pieces_is_given_back = "hostile guest: bad input, entries with zero SGEs",
    a_buffer_of_nothing_is_given_back = "reference: process_rqe, lengths summed in 32 bits",
    a_buffer_of_another_key_is_given_back = "gdma.h: struct gdma_sge, mem_key",
    a_bad_buffer_keeps_its_turn = "mana_en.c: mana_process_rx_cqe (in posting order)",
    many_bad_buffers_are_given_back_at_once = "hostile guest: bad input, entries with zero SGEs",
    bad_buffers_keep_their_turns_among_many_frames = "mana_en.c: mana_process_rx_cqe (in posting order)",
    a_buffer_outside_memory_is_given_back = "WIT: rx-flags.memory-fault",
    fills_buffers_in_posting_order = "mana_en.c: mana_process_rx_cqe (in posting order)",
    takes_many_frames_at_once = "mana_en.c: mana_poll_rx_cq",
    raises_one_interrupt_for_many = "mana_en.c: mana_schedule_napi",
    posts_many_buffers_at_once = "mana_en.c: mana_push_wqe",
    takes_more_frames_than_the_queue_has_room_for = "mana_en.c: mana_post_pkt_rxq",
    posts_many_buffers_in_pieces_at_once = "mana_en.c: mana_push_wqe; gdma.h: MAX_RX_WQE_SGL_ENTRIES",
    posts_the_rest_when_the_host_has_room = "WIT: post-receive",
    frames_wait_for_a_buffer = "mana_en.c: mana_refill_rx_oob",
    completes_one_frame_at_a_time = "mana.h: struct mana_rxcomp_oob, ppi",
    a_fence_completes = "mana_en.c: mana_fence_rq",
    a_fence_follows_what_was_received = "mana_en.c: mana_fence_rq",
    a_fence_uses_no_buffer = "mana_en.c: mana_process_rx_cqe, CQE_RX_OBJECT_FENCE",
    a_fence_works_while_nothing_is_received = "mana_en.c: mana_dealloc_queues (fence after steering off)",
    a_fence_needs_an_object = "mana_en.c: mana_fence_rq",
    a_fence_needs_a_receive_object = "mana_en.c: mana_fence_rq",
    a_fence_needs_its_body = "mana_en.c: mana_fence_rq",
    a_fence_that_finds_no_room_fails = "mana_en.c: mana_fence_rq",
    a_fence_overwrites_nothing_when_buffers_run_out = "mana_en.c: mana_fence_rq",
    a_fence_follows_laps_of_silence = "mana_en.c: mana_fence_rq, mana_cq_handler",
    a_fence_finds_room_where_memory_was_used_again = "mana_en.c: mana_fence_rq, mana_cq_handler",
}

fn takes(driver: &mut Driver<'_>, length: usize) -> Outcome {
    driver.start_and_open()?.receive(driver, &frame(length))
}

fn takes_1_byte(driver: &mut Driver<'_>) -> Outcome {
    takes(driver, 1)
}

fn takes_the_shortest_frame(driver: &mut Driver<'_>) -> Outcome {
    takes(driver, 60)
}

fn takes_the_longest_frame(driver: &mut Driver<'_>) -> Outcome {
    takes(driver, 1514)
}

fn takes_a_jumbo_frame(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (address, offset) = vport.post_buffer(driver, 9216)?;
    let frame = frame(9014);
    vport.arrive(driver, &frame, RxFlags::empty())?;
    vport.take_frame(driver, &frame, address, offset)
}

fn takes_a_frame_that_fits_exactly(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (address, offset) = vport.post_buffer(driver, 100)?;
    vport.arrive(driver, &frame(100), RxFlags::empty())?;
    vport.take_frame(driver, &frame(100), address, offset)
}

/// Consumes the next completion, which must be of this type.
pub(super) fn next(
    driver: &mut Driver<'_>,
    vport: &mut Vport,
    expected: CqeType,
) -> Outcome<Completion> {
    let completion = vport.rx.cq.expect(driver)?;
    vport.rx.cq.ring(driver, true);
    completion.check_type(expected as u8)?;
    Ok(completion)
}

fn cuts_a_frame_that_does_not_fit(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (address, offset) = vport.post_buffer(driver, 99)?;
    vport.arrive(driver, &frame(100), RxFlags::empty())?;
    let found = next(driver, &mut vport, CqeType::RxTruncated)?.receive();
    check_eq("WQE offset", found.wqe_offset, offset)?;
    let bytes = driver.read(address, 99);
    check_eq("the frame's beginning", &bytes[..], &frame(100)[..99])
}

fn writes_nothing_behind_a_buffer(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&[0xee; 200])?;
    let wqe = Wqe::receive(&[sge(address + 50, 20)]);
    vport.rx.wq.post(driver, &wqe);
    vport.arrive(driver, &frame(100), RxFlags::empty())?;
    let bytes = driver.read(address, 200);
    check_eq("before the buffer", &bytes[..50], &[0xee; 50][..])?;
    check_eq("after the buffer", &bytes[70..], &[0xee; 130][..])
}

fn goes_on_after_a_cut_frame(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 10)?;
    vport.arrive(driver, &frame(100), RxFlags::empty())?;
    next(driver, &mut vport, CqeType::RxTruncated)?;
    vport.works(driver)
}

fn takes_1_to_15_pieces(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for count in 1..=15u64 {
        let address = driver.pages(1)?;
        let pieces = (0..count).map(|n| sge(address + 200 * n, 100));
        let sgl: Vec<_> = pieces.collect();
        vport.rx.wq.post(driver, &Wqe::receive(&sgl));
        let frame = frame(100 * count as usize - 3);
        vport.arrive(driver, &frame, RxFlags::empty())?;
        next(driver, &mut vport, CqeType::RxOkay)?;
        let found = driver.read(address, 4096);
        let found = found
            .chunks(200)
            .flat_map(|piece| &piece[..100.min(piece.len())]);
        let found: Vec<u8> = found.copied().take(frame.len()).collect();
        check_eq(format_args!("frame in {count} pieces"), found, frame)?;
    }
    Ok(())
}

fn skips_empty_pieces(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.pages(1)?;
    let sgl = [
        sge(0, 0),
        sge(address, 30),
        sge(u64::MAX, 0),
        sge(address + 30, 30),
    ];
    let offset = vport.rx.wq.post(driver, &Wqe::receive(&sgl));
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.take_frame(driver, &frame(60), address, offset)
}

/// Checks that a buffer is completed at once with length 0, and that the vport
/// continues.
fn given_back(driver: &mut Driver<'_>, wqe: &Wqe) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let offset = vport.rx.wq.post(driver, wqe);
    let found = next(driver, &mut vport, CqeType::RxTruncated)?.receive();
    check_eq("length", found.length, 0)?;
    check_eq("WQE offset", found.wqe_offset, offset)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    vport.works(driver)
}

fn a_buffer_of_16_pieces_is_given_back(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.pages(1)?;
    given_back(driver, &Wqe::receive(&[sge(address, 100); 16]))
}

fn a_buffer_without_pieces_is_given_back(driver: &mut Driver<'_>) -> Outcome {
    given_back(driver, &Wqe::receive(&[]))
}

fn a_buffer_of_nothing_is_given_back(driver: &mut Driver<'_>) -> Outcome {
    given_back(driver, &Wqe::receive(&[sge(4096, 0)]))?;
    driver.bench.reset();
    given_back(driver, &Wqe::receive(&[sge(4096, 0); 3]))
}

fn a_buffer_of_another_key_is_given_back(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.pages(1)?;
    let mut other = sge(address, 100);
    other.mem_key ^= 7;
    given_back(driver, &Wqe::receive(&[other]))?;
    driver.bench.reset();
    given_back(driver, &Wqe::receive(&[sge(address, 100), other]))
}

fn a_bad_buffer_keeps_its_turn(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (first, first_offset) = vport.post_buffer(driver, 2048)?;
    vport.rx.wq.post(driver, &Wqe::receive(&[]));
    let (second, second_offset) = vport.post_buffer(driver, 2048)?;
    vport.rx.cq.expect_none(driver)?;
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.take_frame(driver, &frame(60), first, first_offset)?;
    next(driver, &mut vport, CqeType::RxTruncated)?;
    vport.arrive(driver, &frame(61), RxFlags::empty())?;
    vport.take_frame(driver, &frame(61), second, second_offset)
}

/// Posts more buffers than the host holds, with one doorbell.
fn many_bad_buffers_are_given_back_at_once(driver: &mut Driver<'_>) -> Outcome {
    const COUNT: u32 = 2500;
    driver.start()?;
    let sizes = Sizes {
        wq: (COUNT * WQE_UNIT).next_power_of_two(),
        cq: (COUNT * CQE_SIZE).next_power_of_two(),
        ..Sizes::SMALL
    };
    let mut vport = driver.open_with(0, sizes)?;
    for _ in 0..COUNT {
        vport.rx.wq.write(driver, &Wqe::receive(&[]));
    }
    let (address, offset) = vport.post_buffer(driver, 2048)?;
    let found = vport.rx.cq.drain(driver)?;
    check_eq("buffers given back", found.len(), COUNT as usize)?;
    vport.rx.cq.ring(driver, true);
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.take_frame(driver, &frame(60), address, offset)
}

fn bad_buffers_keep_their_turns_among_many_frames(driver: &mut Driver<'_>) -> Outcome {
    const BAD: [usize; 5] = [0, 4, 5, 9, 11];
    let mut vport = driver.start_and_open()?;
    let mut buffers = Vec::new();
    for number in 0..12 {
        let address = driver.place(&[0; 128])?;
        let sgl = if BAD.contains(&number) {
            vec![]
        } else {
            vec![sge(address, 128)]
        };
        buffers.push((address, vport.rx.wq.write(driver, &Wqe::receive(&sgl))));
    }
    vport.rx.wq.ring(driver);
    arrive_together(driver, buffers.len() - BAD.len())?;
    let mut frames = 0..;
    for (number, (address, offset)) in buffers.into_iter().enumerate() {
        if BAD.contains(&number) {
            let found = next(driver, &mut vport, CqeType::RxTruncated)?.receive();
            check_eq("WQE offset", found.wqe_offset, offset)?;
        } else if let Some(frame) = frames.next() {
            vport.take_frame(driver, &numbered_frame(60, frame), address, offset)?;
        }
    }
    vport.works(driver)
}

fn a_buffer_outside_memory_is_given_back(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = Wqe::receive(&[sge(MEMORY_SIZE - 10, 2048)]);
    vport.rx.wq.post(driver, &wqe);
    driver.bench.receive(0, &[(&frame(60), RxFlags::empty())]);
    next(driver, &mut vport, CqeType::RxTruncated)?;
    vport.works(driver)
}

/// Posts this many buffers with one doorbell.
fn post(driver: &mut Driver<'_>, vport: &mut Vport, count: usize) -> Outcome<Vec<(u64, u32)>> {
    let mut buffers = Vec::new();
    for _ in 0..count {
        let address = driver.place(&[0; 128])?;
        let wqe = Wqe::receive(&[sge(address, 128)]);
        buffers.push((address, vport.rx.wq.write(driver, &wqe)));
    }
    vport.rx.wq.ring(driver);
    Ok(buffers)
}

fn arrive_together(driver: &mut Driver<'_>, count: usize) -> Outcome {
    let frames: Vec<Vec<u8>> = (0..count).map(|n| numbered_frame(60, n as u8)).collect();
    let batch: Vec<_> = frames.iter().map(|f| (&f[..], RxFlags::empty())).collect();
    check_eq(
        "frames that found a buffer",
        driver.bench.receive(0, &batch),
        count,
    )
}

fn take_numbered(driver: &mut Driver<'_>, vport: &mut Vport, buffers: &[(u64, u32)]) -> Outcome {
    for (number, (address, offset)) in buffers.iter().enumerate() {
        let frame = numbered_frame(60, number as u8);
        vport.take_frame(driver, &frame, *address, *offset)?;
    }
    vport.rx.cq.expect_none(driver)
}

fn fills_buffers_in_posting_order(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let buffers = post(driver, &mut vport, 20)?;
    for number in 0..20 {
        let frame = numbered_frame(60, number);
        vport.arrive(driver, &frame, RxFlags::empty())?;
    }
    take_numbered(driver, &mut vport, &buffers)
}

fn takes_many_frames_at_once(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let buffers = post(driver, &mut vport, 60)?;
    arrive_together(driver, 60)?;
    take_numbered(driver, &mut vport, &buffers)
}

fn raises_one_interrupt_for_many(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    post(driver, &mut vport, 30)?;
    driver.expect_interrupts(vport.eq.vector, 0)?;
    arrive_together(driver, 30)?;
    driver.expect_interrupts(vport.eq.vector, 1)?;
    check_eq("events", vport.eq.drain(driver)?.len(), 1)
}

fn posts_many_buffers_at_once(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut vport = driver.open_with(0, Sizes::LARGE)?;
    let buffers = post(driver, &mut vport, 512)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 512)?;
    arrive_together(driver, 512)?;
    take_numbered(driver, &mut vport, &buffers)
}

/// Also more than the device posts in one batch.
fn takes_more_frames_than_the_queue_has_room_for(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut vport = driver.open_with(0, Sizes::SMALL)?;
    let buffers: Vec<u64> = (0..50)
        .map(|_| driver.place(&[0; 128]))
        .collect::<Outcome<_>>()?;
    for _ in 0..45 {
        let mut post = |address| {
            vport
                .rx
                .wq
                .write(driver, &Wqe::receive(&[sge(address, 128)]))
        };
        let posted: Vec<_> = buffers.iter().map(|at| (*at, post(*at))).collect();
        vport.rx.wq.ring(driver);
        arrive_together(driver, posted.len())?;
        take_numbered(driver, &mut vport, &posted)?;
    }
    Ok(())
}

fn posts_many_buffers_in_pieces_at_once(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let sizes = Sizes {
        wq: 16 * PAGE_SIZE,
        ..Sizes::LARGE
    };
    let mut vport = driver.open_with(0, sizes)?;
    // Buffers of the most SGEs, with buffers of one between them.
    let mut buffers = Vec::new();
    for count in [15, 1].repeat(128) {
        let (address, size) = (driver.place(&[0; 120])?, 120 / count);
        let pieces = (0..count).map(|n| sge(address + size * n, size as u32));
        let sgl: Vec<_> = pieces.collect();
        let offset = vport.rx.wq.write(driver, &Wqe::receive(&sgl));
        buffers.push((address, offset));
    }
    vport.rx.wq.ring(driver);
    let count = buffers.len();
    check_eq("posted buffers", driver.bench.posted_buffers(0), count)?;
    arrive_together(driver, count)?;
    take_numbered(driver, &mut vport, &buffers)
}

fn posts_the_rest_when_the_host_has_room(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.limit_buffers(0, 4);
    let buffers = post(driver, &mut vport, 20)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 4)?;
    for number in 0..20 {
        let frame = numbered_frame(60, number);
        vport.arrive(driver, &frame, RxFlags::empty())?;
    }
    take_numbered(driver, &mut vport, &buffers)?;
    vport.works(driver)
}

fn frames_wait_for_a_buffer(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let found = driver.bench.receive(0, &[(&frame(60), RxFlags::empty())]);
    check_eq("frames that found a buffer", found, 0)?;
    vport.rx.cq.expect_none(driver)?;
    vport.works(driver)
}

fn completes_one_frame_at_a_time(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    post(driver, &mut vport, 4)?;
    arrive_together(driver, 4)?;
    for completion in vport.rx.cq.drain(driver)? {
        let found = completion.receive();
        check_eq("type", found.cqe_type, CqeName(CqeType::RxOkay as u8))?;
        check_eq("lengths of others", found.others, [0; 3])?;
    }
    Ok(())
}

fn fence(driver: &mut Driver<'_>, vport: &mut Vport) -> Outcome {
    driver.fence(vport.rx.handle)?.expect(Status::Success)?;
    Ok(())
}

fn a_fence_completes(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    fence(driver, &mut vport)?;
    driver.expect_interrupts(vport.eq.vector, 1)?;
    let found = next(driver, &mut vport, CqeType::RxObjectFence)?.receive();
    check_eq("queue", (found.is_sq, found.wq), (false, vport.rx.wq.id))?;
    vport.works(driver)
}

fn a_fence_follows_what_was_received(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    post(driver, &mut vport, 10)?;
    arrive_together(driver, 5)?;
    fence(driver, &mut vport)?;
    let found = vport.rx.cq.drain(driver)?;
    let types: Vec<u8> = found.iter().map(Completion::cqe_type).collect();
    let mut expected = vec![CqeType::RxOkay as u8; 5];
    expected.push(CqeType::RxObjectFence as u8);
    check_eq("types of completions", types, expected)
}

fn a_fence_uses_no_buffer(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let buffers = post(driver, &mut vport, 3)?;
    fence(driver, &mut vport)?;
    next(driver, &mut vport, CqeType::RxObjectFence)?;
    arrive_together(driver, 3)?;
    take_numbered(driver, &mut vport, &buffers)
}

fn a_fence_works_while_nothing_is_received(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    post(driver, &mut vport, 3)?;
    driver.disable_rx(vport.handle)?;
    fence(driver, &mut vport)?;
    next(driver, &mut vport, CqeType::RxObjectFence).map(|_| ())
}

fn a_fence_needs_an_object(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    for handle in [0, u64::MAX, vport.handle, vport.rx.handle + 7] {
        driver.fence(handle)?.expect(Status::InvalidHandle)?;
    }
    Ok(())
}

fn a_fence_needs_a_receive_object(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    let answer = driver.fence(vport.tx.handle)?;
    answer.expect(Status::InvalidParameter).map(|_| ())
}

fn a_fence_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    use crate::driver::message::Request;
    use mana_wire::bnic::code;
    driver.start_and_open()?;
    let request = Request::of_bytes(code::FENCE_RQ, &[0; 7], 0);
    driver.refuse(&request, Status::TooShort)
}

fn a_fence_that_finds_no_room_fails(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let sizes = Sizes {
        cq: PAGE_SIZE,
        ..Sizes::LARGE
    };
    let mut object = driver.create_object(vport, QueueType::Rq, None, sizes)?;
    driver.enable_rx(vport, object.handle)?;
    // More completions than fit: the last fence of these has no room.
    for _ in 0..object.cq.ring.entries() {
        driver.fence(object.handle)?.expect(Status::Success)?;
    }
    let last = driver.fence(object.handle)?.status();
    let found = object.cq.drain(driver)?.len();
    let lost = last == crate::driver::message::StatusName(Status::NoResources as u32);
    let kept = found == object.cq.ring.entries() as usize;
    check_eq(
        "refused, and nothing overwritten",
        (lost, kept),
        (true, true),
    )
}

/// Returns a vport with completion queues of a page, and larger work queues: 1024 units.
fn of_small_completions(driver: &mut Driver<'_>) -> Outcome<Vport> {
    driver.start()?;
    let sizes = Sizes {
        cq: PAGE_SIZE,
        ..Sizes::LARGE
    };
    driver.open_with(0, sizes)
}

/// Posts buffers with this WQE, and has as many frames arrive.
fn fill(
    driver: &mut Driver<'_>,
    vport: &mut Vport,
    buffer: &Wqe,
    (count, flags): (u32, RxFlags),
) -> Outcome {
    for _ in 0..count {
        vport.rx.wq.write(driver, buffer);
    }
    vport.rx.wq.ring(driver);
    for _ in 0..count {
        vport.arrive(driver, &frame(60), flags)?;
    }
    Ok(())
}

/// Receives for five laps of a completion queue of 64 entries, without a doorbell of
/// it.
fn receive_silently(driver: &mut Driver<'_>, vport: &mut Vport, buffer: &Wqe) -> Outcome {
    for _ in 0..20 {
        fill(driver, vport, buffer, (16, RxFlags::empty()))?;
        check_eq("completions", vport.rx.cq.drain(driver)?.len(), 16)?;
    }
    Ok(())
}

fn a_fence_overwrites_nothing_when_buffers_run_out(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.place(&[0; 64])?;
    let buffer = Wqe::receive(&[sge(address, 64)]);
    for flags in [RxFlags::empty(), RxFlags::BROADCAST] {
        driver.bench.reset();
        let mut vport = driver.start_and_open()?;
        let entries = vport.rx.cq.ring.entries();
        // Until the receive queue's memory is reused.
        for _ in 0..5 {
            fill(driver, &mut vport, &buffer, (entries / 2, flags))?;
            vport.rx.cq.drain(driver)?;
            vport.rx.cq.ring(driver, true);
        }
        // As many completions as fit are pending, although buffers were posted
        // meanwhile.
        fill(driver, &mut vport, &buffer, (entries - 1, flags))?;
        vport.rx.cq.expect(driver)?;
        fill(driver, &mut vport, &buffer, (2, flags))?;
        driver.fence(vport.rx.handle)?.expect(Status::NoResources)?;
        let found = vport.rx.cq.drain(driver)?;
        check_eq("completions", found.len(), entries as usize)?;
        for completion in found {
            completion.check_type(CqeType::RxOkay as u8)?;
        }
        vport.rx.cq.ring(driver, true);
        vport.works(driver)?;
    }
    Ok(())
}

fn a_fence_follows_laps_of_silence(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = of_small_completions(driver)?;
    let buffer = Wqe::receive(&[sge(driver.place(&[0; 64])?, 64)]);
    receive_silently(driver, &mut vport, &buffer)?;
    vport.rx.wq.post(driver, &buffer);
    fence(driver, &mut vport)?;
    next(driver, &mut vport, CqeType::RxObjectFence)?;
    vport.rx.cq.expect_none(driver)
}

fn a_fence_finds_room_where_memory_was_used_again(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    // As many SGEs as let 16 WQEs fit into the receive queue.
    let piece = sge(driver.place(&[0; 64])?, 64);
    receive_silently(driver, &mut vport, &Wqe::receive(&[piece; 15]))?;
    fence(driver, &mut vport)?;
    next(driver, &mut vport, CqeType::RxObjectFence)?;
    vport.rx.cq.expect_none(driver)
}
