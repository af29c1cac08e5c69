//! The hardware channel: establishing it, and messages over it.

use alloc::vec;
use alloc::vec::Vec;

use mana_wire::gdma::{Status, code};
use mana_wire::hwc::init_data;
use mana_wire::queue::PAGE_SIZE;
use zerocopy::IntoBytes;

use crate::bench::MEMORY_SIZE;
use crate::driver::Driver;
use crate::driver::entry::Completion;
use crate::driver::hwc::Hwc;
use crate::driver::message::{REQUEST_HEADER, RESPONSE_HEADER, Request, Response};
use crate::driver::wqe::Wqe;
use crate::failure::{Failure, Outcome, check, check_eq};

super::declare! { "hwc":
    announces_everything_a_driver_needs = "hw_channel.c: mana_hwc_init_event_handler",
    announces_queues_that_exist = "hw_channel.c: mana_hwc_establish_channel",
    announces_room_for_linux_messages = "hw_channel.c: mana_hwc_create_channel",
    announces_more_completion_queues_than_its_own = "hw_channel.c: mana_hwc_establish_channel, max_num_cqs",
    answers_a_request = "hw_channel.c: mana_hwc_send_request",
    completes_the_request_and_then_the_response = "hw_channel.c: mana_hwc_comp_event",
    raises_one_interrupt_a_request = "hw_channel.c: mana_hwc_comp_event",
    owner_bits_hold_for_nine_laps = "gdma_main.c: mana_gd_read_cqe",
    answers_several_requests_in_order = "hw_channel.c: mana_hwc_get_msg_index",
    answers_as_many_requests_as_it_announced = "hw_channel.c: hwc_init_q_depth_max",
    answers_a_driver_that_polls_in_silence = "openvmm mana_driver: CqEq::pop (no doorbell until it arms)",
    a_request_waits_for_a_response_buffer = "hw_channel.c: mana_hwc_handle_resp (no_wqe)",
    takes_requests_in_pieces = "gdma.h: struct gdma_wqe_request",
    gives_responses_in_pieces = "gdma.h: struct gdma_wqe_request",
    uses_only_as_much_of_a_buffer_as_was_asked_for = "hw_channel.c: mana_hwc_verify_resp_msg",
    unknown_requests_are_unsupported = "hw_channel.c: mana_hwc_send_request, GDMA_STATUS_CMD_UNSUPPORTED",
    failures_have_an_empty_body = "reference: handle_req",
    a_longer_response_reads_as_zero_beyond_its_end = "reference: handle_req",
    refuses_a_size_below_the_header = "gdma.h: struct gdma_msg_hdr, msg_size",
    refuses_a_size_beyond_what_came = "gdma.h: struct gdma_msg_hdr, msg_size",
    ignores_what_lies_behind_the_message = "gdma.h: struct gdma_msg_hdr, msg_size",
    refuses_another_kind_of_header = "gdma.h: GDMA_STANDARD_HEADER_TYPE",
    refuses_version_0 = "gdma.h: GDMA_MESSAGE_V1",
    refuses_a_buffer_shorter_than_the_response = "hw_channel.c: mana_hwc_post_rx_wqe",
    a_message_shorter_than_its_header_gets_no_answer = "gdma.h: struct gdma_req_hdr",
    a_message_longer_than_a_page_gets_no_answer = "hw_channel.c: hwc_init_max_req_msg_size",
    lengths_that_overflow_get_no_answer = "hostile guest: bad input, lengths that overflow",
    an_empty_message_gets_no_answer = "hw_channel.c: mana_hwc_post_tx_wqe",
    a_message_outside_memory_gets_no_answer = "hw_channel.c: mana_hwc_post_tx_wqe",
    a_response_outside_memory_is_lost = "hw_channel.c: mana_hwc_post_rx_wqe",
    a_buffer_shorter_than_a_header_gets_no_answer = "hw_channel.c: mana_hwc_verify_resp_msg",
    an_oob_of_other_queues_gets_no_answer = "hw_channel.c: mana_hwc_post_tx_wqe",
    a_short_oob_gets_no_answer = "hw_channel.c: mana_hwc_post_tx_wqe",
    a_malformed_entry_gets_no_answer = "gdma.h: struct gdma_wqe",
    a_request_behind_many_bad_ones_is_answered = "hostile guest: bad input",
    a_malformed_response_buffer_is_passed_over = "gdma.h: struct gdma_wqe",
    a_response_size_of_zero_gets_a_header = "hw_channel.c: mana_hwc_verify_resp_msg",
    a_response_size_beyond_a_page_is_cut = "hw_channel.c: hwc_init_max_resp_msg_size",
}

/// Request after request for nearly eight laps of the completion queue, without a
/// doorbell of it.
fn answers_a_driver_that_polls_in_silence(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let message = list_devices().to_bytes();
    driver.with_hwc(|hwc, driver| {
        driver.bench.write_memory(hwc.request_page, &message);
        for request in 1..4 * hwc.cq.ring.entries() {
            let offset = hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
            hwc.post_request(driver, &[hwc.sge(hwc.request_page, message.len() as u32)]);
            let completions = hwc.cq.drain(driver)?;
            let what = alloc::format!("completions of request {request}");
            check_eq(what, completions.len(), 2)?;
            hwc.check_sent(&completions[0])?;
            let response = hwc.response(driver, &completions[1], offset)?;
            response.expect(Status::Success)?;
        }
        // The one event that the first completion raised.
        check_eq("more completions", hwc.wait(driver)?.len(), 0)
    })?;
    driver.succeed(&list_devices()).map(|_| ())
}

fn announces_everything_a_driver_needs(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, _| {
        let mut kinds: Vec<u8> = hwc.announced.kinds.into();
        kinds.retain(|kind| *kind != 0);
        kinds.sort_unstable();
        let expected: Vec<u8> = (init_data::CQID..=init_data::GPA_MKEY).collect();
        check_eq("kinds of initialisation data", kinds, expected)
    })
}

fn announces_queues_that_exist(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, _| {
        let found = hwc.announced;
        let ids = [found.eq, found.cq, found.rq, found.sq];
        check(
            !ids.contains(&0),
            format_args!("a queue has id 0: {found:?}"),
        )
    })
}

fn announces_room_for_linux_messages(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, _| {
        let found = hwc.announced;
        check(found.depth >= 1, "a queue depth of 0")?;
        check_eq("longest request", found.max_request, 4096)?;
        check_eq("longest response", found.max_response, 4096)
    })
}

fn announces_more_completion_queues_than_its_own(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, _| {
        let found = hwc.announced;
        check(found.cq < found.max_cqs, format_args!("{found:?}"))
    })
}

fn list_devices() -> Request {
    Request::of_bytes(code::LIST_DEVICES, &[], 16)
}

fn answers_a_request(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.succeed(&list_devices()).map(|_| ())
}

fn completes_the_request_and_then_the_response(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let completions = send(driver, &list_devices().to_bytes(), 4096)?;
    let order: Vec<bool> = completions.iter().map(|c| c.is_sq).collect();
    check_eq("send completions in order", order, vec![true, false])
}

fn raises_one_interrupt_a_request(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    for _ in 0..10 {
        // `call` fails unless there is exactly one.
        driver.succeed(&list_devices())?;
    }
    check_eq("other interrupts", driver.take_all_interrupts(), vec![])
}

fn owner_bits_hold_for_nine_laps(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    // Two completions a request in 64 entries, one event in 256.
    for _ in 0..9 * 256 {
        driver.succeed(&list_devices())?;
    }
    Ok(())
}

/// Posts a message of any bytes and a response buffer, and waits for completions.
fn send(driver: &mut Driver<'_>, message: &[u8], buffer: u32) -> Outcome<Vec<Completion>> {
    driver.with_hwc(|hwc, driver| {
        driver.bench.write_memory(hwc.request_page, message);
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, buffer)]);
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, message.len() as u32)]);
        hwc.wait(driver)
    })
}

/// Checks that a request was completed and never answered, and that its response buffer
/// is used for the next request.
fn check_unanswered(driver: &mut Driver<'_>, completions: &[Completion]) -> Outcome {
    let [sent] = completions else {
        return Err(Failure::new(alloc::format!(
            "expected a completion of the request alone, found {completions:#?}"
        )));
    };
    driver.with_hwc(|hwc, driver| {
        hwc.check_sent(sent)?;
        // Its buffer is still posted.
        driver
            .bench
            .write_memory(hwc.request_page, &list_devices().to_bytes());
        let length = list_devices().to_bytes().len() as u32;
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, length)]);
        check_eq("completions of the next", hwc.wait(driver)?.len(), 2)
    })?;
    driver.succeed(&list_devices()).map(|_| ())
}

fn post_many(driver: &mut Driver<'_>, count: u16) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let page = driver.pages(count.into())?;
        let requests = driver.pages(1)?;
        for id in 0..count {
            let mut request = list_devices();
            request.header.req.hwc_msg_id = id;
            let bytes = request.to_bytes();
            let at = requests + u64::from(id) * 64;
            driver.bench.write_memory(at, &bytes);
            let response = page + u64::from(id) * 4096;
            hwc.rq
                .write(driver, &Wqe::receive(&[hwc.sge(response, 4096)]));
            let sge = hwc.sge(at, bytes.len() as u32);
            hwc.sq
                .write(driver, &Wqe::new(hwc.oob().as_bytes(), &[sge]));
        }
        hwc.rq.ring(driver);
        hwc.sq.ring(driver);
        let completions = hwc.wait(driver)?;
        check_eq("completions", completions.len(), 2 * usize::from(count))?;
        for id in 0..count {
            let bytes = driver.read(page + u64::from(id) * 4096, RESPONSE_HEADER + 16);
            let response = Response::from_bytes(&bytes)?.expect(Status::Success)?;
            check_eq("hwc_msg_id", response.header.response.hwc_msg_id, id)?;
        }
        Ok(())
    })
}

fn answers_several_requests_in_order(driver: &mut Driver<'_>) -> Outcome {
    post_many(driver, 5)
}

fn answers_as_many_requests_as_it_announced(driver: &mut Driver<'_>) -> Outcome {
    // 32 of two entries each in one page of completions.
    post_many(driver, 32)?;
    driver.with_hwc(|hwc, _| check_eq("announced depth", hwc.announced.depth, 32))
}

fn a_request_waits_for_a_response_buffer(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let bytes = list_devices().to_bytes();
        driver.bench.write_memory(hwc.request_page, &bytes);
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, bytes.len() as u32)]);
        driver.expect_interrupts(0, 0)?;
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        check_eq("completions", hwc.wait(driver)?.len(), 2)
    })
}

fn takes_requests_in_pieces(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let bytes = list_devices().to_bytes();
        let mut sgl = Vec::new();
        for piece in bytes.chunks(7) {
            sgl.push(hwc.sge(driver.place(piece)?, piece.len() as u32));
        }
        let offset = hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        hwc.post_request(driver, &sgl);
        let completions = hwc.wait(driver)?;
        check_eq("completions", completions.len(), 2)?;
        let response = hwc.response(driver, &completions[1], offset)?;
        response.expect(Status::Success).map(|_| ())
    })
}

fn gives_responses_in_pieces(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let length = RESPONSE_HEADER + 16;
        // Pieces of 8 bytes with 8 between them, 15 at most.
        let area = driver.place(&[0xee; 256])?;
        let pieces = (0..length as u64 / 8 + 1).map(|n| area + 16 * n);
        let sgl: Vec<_> = pieces.map(|at| hwc.sge(at, 8)).collect();
        hwc.post_response(driver, &sgl);
        let bytes = list_devices().to_bytes();
        driver.bench.write_memory(hwc.request_page, &bytes);
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, bytes.len() as u32)]);
        check_eq("completions", hwc.wait(driver)?.len(), 2)?;
        let found = driver.read(area, 256);
        let (runs, _) = found.as_chunks::<16>();
        for run in runs {
            check_eq("what lies between the pieces", &run[8..], &[0xee; 8][..])?;
        }
        let whole: Vec<u8> = runs.iter().flat_map(|run| &run[..8]).copied().collect();
        Response::from_bytes(&whole[..length])?
            .expect(Status::Success)
            .map(|_| ())
    })
}

fn uses_only_as_much_of_a_buffer_as_was_asked_for(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let page = driver.with_hwc(|hwc, _| Ok(hwc.response_page))?;
    driver.bench.write_memory(page, &[0xee; 4096]);
    let response = driver.succeed(&list_devices())?;
    let end = RESPONSE_HEADER + response.body.len();
    check_eq("length of the response", end, RESPONSE_HEADER + 16)?;
    let rest = driver.read(page, 4096).split_off(end);
    check(
        rest.iter().all(|byte| *byte == 0xee),
        "bytes after the response were written",
    )
}

fn unknown_requests_are_unsupported(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    for unknown in [0, 6, 9, 14, 24, 28, 82, 85, 0xffff] {
        let request = Request::of_bytes(unknown, &[0; 64], 64);
        driver.refuse(&request, Status::Unsupported)?;
    }
    Ok(())
}

fn failures_have_an_empty_body(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let page = driver.with_hwc(|hwc, _| Ok(hwc.response_page))?;
    driver.bench.write_memory(page, &[0xee; 4096]);
    let response = driver.call(&Request::of_bytes(0xffff, &[], 64))?;
    check_eq("body", response.body, vec![0; 64])
}

fn a_longer_response_reads_as_zero_beyond_its_end(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let page = driver.with_hwc(|hwc, _| Ok(hwc.response_page))?;
    driver.bench.write_memory(page, &[0xee; 4096]);
    let request = Request::of_bytes(code::QUERY_MAX_RESOURCES, &[], 400);
    let response = driver.succeed(&request)?;
    check_eq("length of the body", response.body.len(), 400)?;
    check_eq("what is beyond", &response.body[40..], &[0; 360][..])?;
    // Nor does the next response contain bytes of this one.
    let request = Request::of_bytes(code::QUERY_HWC_TIMEOUT, &[0; 8], 400);
    let response = driver.succeed(&request)?;
    check_eq("what is beyond", &response.body[8..], &[0; 392][..])
}

fn spoiled(driver: &mut Driver<'_>, spoil: impl FnOnce(&mut Request), status: Status) -> Outcome {
    driver.establish()?;
    let mut request = list_devices();
    spoil(&mut request);
    driver.refuse(&request, status)?;
    driver.succeed(&list_devices()).map(|_| ())
}

fn refuses_a_size_below_the_header(driver: &mut Driver<'_>) -> Outcome {
    let size = REQUEST_HEADER as u32 - 1;
    spoiled(driver, |r| r.header.req.msg_size = size, Status::TooShort)
}

fn refuses_a_size_beyond_what_came(driver: &mut Driver<'_>) -> Outcome {
    let size = REQUEST_HEADER as u32 + 1;
    spoiled(driver, |r| r.header.req.msg_size = size, Status::TooShort)
}

fn ignores_what_lies_behind_the_message(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let mut request = Request::new(code::QUERY_HWC_TIMEOUT, &[1u32, 0], 8);
    // The body came, but is no part of the message.
    request.header.req.msg_size = REQUEST_HEADER as u32;
    driver.refuse(&request, Status::TooShort)
}

fn refuses_another_kind_of_header(driver: &mut Driver<'_>) -> Outcome {
    let status = Status::InvalidParameter;
    spoiled(driver, |r| r.header.req.hdr_type = 1, status)
}

fn refuses_version_0(driver: &mut Driver<'_>) -> Outcome {
    let status = Status::VersionMismatch;
    spoiled(driver, |r| r.header.req.msg_version = 0, status)?;
    let mut request = list_devices();
    request.header.resp.msg_version = 0;
    driver.refuse(&request, status)
}

fn refuses_a_buffer_shorter_than_the_response(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let short = RESPONSE_HEADER as u32 + 8;
    let completions = send(driver, &list_devices().to_bytes(), short)?;
    check_eq("completions", completions.len(), 2)?;
    driver.with_hwc(|hwc, driver| {
        let response = hwc.response(driver, &completions[1], 0)?;
        check_eq("length of the body", response.body.len(), 8)?;
        response.expect(Status::ResponseTooSmall).map(|_| ())
    })
}

fn a_message_shorter_than_its_header_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let message = list_devices().to_bytes();
    let completions = send(driver, &message[..REQUEST_HEADER - 1], 4096)?;
    check_unanswered(driver, &completions)
}

fn a_message_longer_than_a_page_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    unanswered_request(driver, |hwc| vec![hwc.sge(hwc.request_page, 4097)])
}

fn lengths_that_overflow_get_no_answer(driver: &mut Driver<'_>) -> Outcome {
    unanswered_request(driver, |hwc| {
        let half = |more| hwc.sge(hwc.request_page, (1 << 31) + more);
        vec![half(0), half(REQUEST_HEADER as u32)]
    })
}

fn an_empty_message_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    unanswered_request(driver, |_| vec![])
}

fn a_message_outside_memory_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    unanswered_request(driver, |hwc| vec![hwc.sge(MEMORY_SIZE - 16, 64)])?;
    driver.with_hwc(|hwc, driver| {
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        hwc.post_request(driver, &[hwc.sge(u64::MAX - 15, 64)]);
        check_eq("completions", hwc.wait(driver)?.len(), 1)
    })
}

fn unanswered_request(
    driver: &mut Driver<'_>,
    sgl: impl FnOnce(&Hwc) -> Vec<mana_wire::queue::Sge>,
) -> Outcome {
    driver.establish()?;
    let completions = driver.with_hwc(|hwc, driver| {
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        let sgl = sgl(hwc);
        hwc.post_request(driver, &sgl);
        hwc.wait(driver)
    })?;
    check_unanswered(driver, &completions)
}

fn a_response_outside_memory_is_lost(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let bytes = list_devices().to_bytes();
        driver.bench.write_memory(hwc.request_page, &bytes);
        hwc.post_response(driver, &[hwc.sge(MEMORY_SIZE, 4096)]);
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, bytes.len() as u32)]);
        check_eq("completions", hwc.wait(driver)?.len(), 1)
    })
}

fn a_buffer_shorter_than_a_header_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let short = RESPONSE_HEADER as u32 - 1;
    let completions = send(driver, &list_devices().to_bytes(), short)?;
    check_eq("completions", completions.len(), 1)
}

/// Sends a request whose WQE is corrupted, with a valid response buffer.
fn spoiled_entry(driver: &mut Driver<'_>, entry: impl FnOnce(&Hwc) -> Vec<u8>) -> Outcome {
    driver.establish()?;
    let completions = driver.with_hwc(|hwc, driver| {
        driver
            .bench
            .write_memory(hwc.request_page, &list_devices().to_bytes());
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        let bytes = entry(hwc);
        hwc.sq.write_bytes(driver, &bytes);
        hwc.sq.ring(driver);
        hwc.wait(driver)
    })?;
    check_unanswered(driver, &completions)
}

fn an_oob_of_other_queues_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    spoiled_entry(driver, |hwc| {
        let mut oob = hwc.oob();
        oob.vsq = 77;
        let sge = hwc.sge(hwc.request_page, REQUEST_HEADER as u32);
        Wqe::new(oob.as_bytes(), &[sge]).to_bytes()
    })
}

fn a_short_oob_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    spoiled_entry(driver, |hwc| {
        let sge = hwc.sge(hwc.request_page, REQUEST_HEADER as u32);
        Wqe::new(&[0; 8], &[sge]).to_bytes()
    })
}

fn a_malformed_entry_gets_no_answer(driver: &mut Driver<'_>) -> Outcome {
    spoiled_entry(driver, |hwc| {
        let sge = hwc.sge(hwc.request_page, REQUEST_HEADER as u32);
        let mut wqe = Wqe::new(hwc.oob().as_bytes(), &[sge]);
        wqe.header.set_inline_oob_size_div4(1);
        wqe.to_bytes()
    })
}

fn a_request_behind_many_bad_ones_is_answered(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let bytes = list_devices().to_bytes();
        driver.bench.write_memory(hwc.request_page, &bytes);
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        let empty = Wqe::new(hwc.oob().as_bytes(), &[]);
        for _ in 0..PAGE_SIZE / 32 - 2 {
            hwc.sq.write(driver, &empty);
        }
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, bytes.len() as u32)]);
        Ok(())
    })?;
    driver.with_hwc(|hwc, driver| {
        let page = hwc.response_page;
        let found = Response::from_bytes(&driver.read(page, RESPONSE_HEADER + 16))?;
        check_eq("type", found.header.response.msg_type, code::LIST_DEVICES)
    })
}

fn a_malformed_response_buffer_is_passed_over(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.with_hwc(|hwc, driver| {
        let mut wqe = Wqe::receive(&[hwc.sge(hwc.response_page, 4096)]);
        wqe.header.set_inline_oob_size_div4(5);
        hwc.rq.write(driver, &wqe);
        Ok(())
    })?;
    driver.succeed(&list_devices()).map(|_| ())
}

fn a_response_size_of_zero_gets_a_header(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let mut request = Request::of_bytes(0xffff, &[], 0);
    request.header.resp.msg_size = 0;
    let response = driver.call(&request)?;
    check_eq("length of the body", response.body.len(), 0)?;
    response.expect(Status::Unsupported).map(|_| ())
}

fn a_response_size_beyond_a_page_is_cut(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let mut request = list_devices();
    request.header.resp.msg_size = u32::MAX;
    let response = driver.succeed(&request)?;
    let expected = PAGE_SIZE as usize - RESPONSE_HEADER;
    check_eq("length of the body", response.body.len(), expected)
}
