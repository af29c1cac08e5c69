//! Guest memory that the VMM revokes, and gives back.

use alloc::vec;

use device_kit::platform::RxFlags;
use mana_wire::gdma::code;
use mana_wire::oob::CqeType;
use mana_wire::queue::{PAGE_SIZE, WQE_UNIT};

use super::rx::next;
use crate::driver::Driver;
use crate::driver::memory::QueueMemory;
use crate::driver::message::Request;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::frame;
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check_eq};

super::declare! { "revoked":
    a_packet_fails = "WIT: tx-status.memory-fault",
    a_buffer_is_given_back = "WIT: rx-flags.memory-fault",
    a_send_queue_fails_its_work = "WIT: windows-changed",
    a_send_queue_fails_what_was_posted_at_once = "WIT: windows-changed",
    a_send_queue_works_as_far_as_it_is_there = "WIT: windows-changed",
    an_entry_without_its_end_fails = "WIT: windows-changed",
    a_receive_queue_gives_back_what_was_posted = "WIT: windows-changed",
    a_request_queue_answers_nothing = "WIT: windows-changed",
    a_response_queue_answers_nothing = "WIT: windows-changed",
    a_completion_queue_harms_no_other_port = "WIT: windows-changed",
    an_event_queue_harms_no_other_port = "WIT: windows-changed",
    a_device_without_memory_is_reset = "WIT: windows-changed",
}

const PAGE: u64 = PAGE_SIZE as u64;

/// Revokes the memory of a queue.
fn revoke(driver: &mut Driver<'_>, queue: &QueueMemory) {
    for page in &queue.pages {
        driver.bench.revoke_memory(*page, PAGE);
    }
}

fn a_packet_fails(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let page = driver.pages(1)?;
    driver.bench.write_memory(page, &frame(60));
    let wqe = vport.packet(&[sge(page, 60)]);
    driver.bench.revoke_memory(page, PAGE);
    vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
    vport.works(driver)?;
    driver.bench.give_memory_back();
    let sent = vport.send_wqe(driver, &wqe)?;
    check_eq("frame at the port", sent.frame, frame(60))
}

fn a_buffer_is_given_back(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let page = driver.pages(1)?;
    vport.rx.wq.post(driver, &Wqe::receive(&[sge(page, 2048)]));
    driver.bench.revoke_memory(page, PAGE);
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    next(driver, &mut vport, CqeType::RxTruncated)?;
    vport.works(driver)?;
    driver.bench.give_memory_back();
    vport.works(driver)
}

fn a_send_queue_fails_its_work(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.works(driver)?;
    let address = driver.place(&frame(60))?;
    let wqe = vport.packet(&[sge(address, 60)]);
    revoke(driver, &vport.tx.wq.memory);
    vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
    vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
    vport.receive(driver, &frame(61))?;
    driver.bench.give_memory_back();
    vport.works(driver)
}

/// One completion ends all of them, because their boundaries were in the memory that is
/// gone.
fn a_send_queue_fails_what_was_posted_at_once(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(60))?;
    let wqe = vport.packet(&[sge(address, 60)]);
    revoke(driver, &vport.tx.wq.memory);
    let offset = vport.tx.wq.write(driver, &wqe);
    vport.tx.wq.write(driver, &wqe);
    vport.tx.wq.ring(driver);
    let completion = vport.tx.cq.expect(driver)?;
    completion.check_type(CqeType::TxGdmaError as u8)?;
    let found = completion.transmit().wqe_offset;
    check_eq("WQE offset", found, offset / WQE_UNIT)?;
    vport.tx.cq.expect_none(driver)?;
    vport.tx.cq.ring(driver, true);
    driver.bench.give_memory_back();
    vport.works(driver)
}

/// Returns a packet of 60 bytes in three SGEs, which takes two units.
fn in_pieces(vport: &Vport, address: u64) -> Wqe {
    vport.packet(&[0, 20, 40].map(|at| sge(address + at, 20)))
}

/// Opens a vport whose send queue has two pages, sends packets until the next WQE
/// begins `before` bytes before the second page, and revokes that page.
fn with_half_a_queue(driver: &mut Driver<'_>, before: u32) -> Outcome<Vport> {
    driver.start()?;
    let sizes = Sizes {
        wq: 2 * PAGE_SIZE,
        ..Sizes::SMALL
    };
    let mut vport = driver.open_with(0, sizes)?;
    let address = driver.place(&frame(60))?;
    // A WQE of several units goes first: none of its data may be used for one whose
    // memory is gone.
    let wqe = in_pieces(&vport, address);
    vport.send_wqe(driver, &wqe)?;
    let wqe = vport.packet(&[sge(address, 60)]);
    while vport.tx.wq.head < PAGE_SIZE - before {
        vport.send_wqe(driver, &wqe)?;
    }
    driver
        .bench
        .revoke_memory(vport.tx.wq.memory.pages[1], PAGE);
    Ok(vport)
}

fn a_send_queue_works_as_far_as_it_is_there(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = with_half_a_queue(driver, 32)?;
    let address = driver.place(&frame(60))?;
    let wqe = vport.packet(&[sge(address, 60)]);
    let sent = vport.send_wqe(driver, &wqe)?;
    check_eq("frame at the port", sent.frame, frame(60))?;
    vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
    driver.bench.give_memory_back();
    vport.works(driver)
}

fn an_entry_without_its_end_fails(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = with_half_a_queue(driver, 32)?;
    let address = driver.place(&frame(60))?;
    let wqe = in_pieces(&vport, address);
    vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
    driver.bench.give_memory_back();
    let sent = vport.send_wqe(driver, &wqe)?;
    check_eq("frame at the port", sent.frame, frame(60))
}

fn a_receive_queue_gives_back_what_was_posted(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    // A buffer of two SGEs goes first: it may not be used for one whose memory is gone.
    let address = driver.place(&[0; 128])?;
    let pieces = [sge(address, 64), sge(address + 64, 64)];
    let offset = vport.rx.wq.post(driver, &Wqe::receive(&pieces));
    vport.arrive(driver, &frame(61), RxFlags::empty())?;
    vport.take_frame(driver, &frame(61), address, offset)?;
    revoke(driver, &vport.rx.wq.memory);
    let (_, offset) = vport.post_buffer(driver, 2048)?;
    let completion = next(driver, &mut vport, CqeType::RxTruncated)?;
    check_eq("WQE offset", completion.receive().wqe_offset, offset)?;
    let found = driver.bench.receive(0, &[(&frame(60), RxFlags::empty())]);
    check_eq("frames that found a buffer", found, 0)?;
    driver.bench.give_memory_back();
    vport.works(driver)
}

fn list_devices() -> Request {
    Request::of_bytes(code::LIST_DEVICES, &[], 16)
}

/// Posts a request and a buffer for its response. Returns where the buffer is in its queue.
fn ask(driver: &mut Driver<'_>) -> Outcome<u32> {
    driver.with_hwc(|hwc, driver| {
        let bytes = list_devices().to_bytes();
        driver.bench.write_memory(hwc.request_page, &bytes);
        driver.bench.write_memory(hwc.response_page, &[0xee; 64]);
        let offset = hwc.post_response(driver, &[hwc.sge(hwc.response_page, PAGE_SIZE)]);
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, bytes.len() as u32)]);
        Ok(offset)
    })
}

/// Checks that nothing was written to the response buffer.
fn check_unanswered(driver: &mut Driver<'_>) -> Outcome {
    let page = driver.with_hwc(|hwc, _| Ok(hwc.response_page))?;
    let found = driver.read(page, 64);
    check_eq("memory for a response", found, vec![0xee; 64])
}

fn a_request_queue_answers_nothing(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.succeed(&list_devices())?;
    let queue = driver.with_hwc(|hwc, _| Ok(hwc.sq.memory.clone()))?;
    revoke(driver, &queue);
    let offset = ask(driver)?;
    check_unanswered(driver)?;
    let sent = driver.with_hwc(|hwc, driver| hwc.wait(driver))?;
    check_eq("completions", sent.len(), 1)?;
    driver.with_hwc(|hwc, _| hwc.check_sent(&sent[0]))?;
    driver.bench.give_memory_back();
    // The buffer that was posted serves the next request.
    driver.with_hwc(|hwc, driver| {
        let length = list_devices().to_bytes().len() as u32;
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, length)]);
        let completions = hwc.wait(driver)?;
        check_eq("completions", completions.len(), 2)?;
        let response = hwc.response(driver, &completions[1], offset)?;
        check_eq(
            "type",
            response.header.response.msg_type,
            code::LIST_DEVICES,
        )
    })?;
    driver.succeed(&list_devices()).map(|_| ())
}

fn a_response_queue_answers_nothing(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let queue = driver.with_hwc(|hwc, _| Ok(hwc.rq.memory.clone()))?;
    revoke(driver, &queue);
    ask(driver)?;
    check_unanswered(driver)?;
    driver.bench.give_memory_back();
    // The request waits for a buffer that can be read.
    driver.with_hwc(|hwc, driver| {
        let offset = hwc.post_response(driver, &[hwc.sge(hwc.response_page, PAGE_SIZE)]);
        let completions = hwc.wait(driver)?;
        check_eq("completions", completions.len(), 2)?;
        let response = hwc.response(driver, &completions[1], offset)?;
        check_eq(
            "type",
            response.header.response.msg_type,
            code::LIST_DEVICES,
        )
    })?;
    driver.succeed(&list_devices()).map(|_| ())
}

/// Opens two vports, revokes the memory of a queue of the first, and sends and receives
/// there. The second works, and so does the first after the VMM's reset.
fn harms_no_other_port(
    driver: &mut Driver<'_>,
    queue: impl FnOnce(&Vport) -> QueueMemory,
) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    revoke(driver, &queue(&vports[0]));
    let address = driver.place(&frame(60))?;
    let wqe = vports[0].packet(&[sge(address, 60)]);
    vports[0].tx.wq.post(driver, &wqe);
    vports[0].post_buffer(driver, 2048)?;
    driver.bench.receive(0, &[(&frame(60), RxFlags::empty())]);
    let sent = driver.bench.take_transmitted(0).len();
    check_eq("packets at the first port", sent, 1)?;
    vports[1].works(driver)?;
    driver.bench.give_memory_back();
    vports[1].works(driver)?;
    for vport in &vports {
        driver.close(vport)?;
    }
    driver.open(0)?.works(driver)
}

fn a_completion_queue_harms_no_other_port(driver: &mut Driver<'_>) -> Outcome {
    harms_no_other_port(driver, |vport| vport.tx.cq.ring.memory.clone())
}

fn an_event_queue_harms_no_other_port(driver: &mut Driver<'_>) -> Outcome {
    harms_no_other_port(driver, |vport| vport.eq.ring.memory.clone())
}

fn a_device_without_memory_is_reset(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.works(driver)?;
    let address = driver.place(&frame(60))?;
    let wqe = vport.packet(&[sge(address, 60)]);
    driver.bench.revoke_memory(0, crate::bench::MEMORY_SIZE);
    vport.tx.wq.post(driver, &wqe);
    vport.rx.wq.post(driver, &Wqe::receive(&[sge(address, 60)]));
    driver.bench.reset();
    driver.bench.give_memory_back();
    driver.take_all_interrupts();
    super::reset::check_nothing_left(driver)?;
    driver.start_and_open()?.works(driver)
}
