//! Packets that share a completion.

use alloc::vec::Vec;

use device_kit::platform::RxFlags;
use mana_wire::bnic::{ConfigVportRxResp, code};
use mana_wire::gdma::Status;
use mana_wire::oob::CqeType;
use mana_wire::queue::WQE_UNIT;

use crate::driver::Driver;
use crate::driver::entry::Completion;
use crate::driver::message::Request;
use crate::driver::nic::{Sizes, Vport, steering};
use crate::driver::pairs::Rss;
use crate::driver::traffic::numbered_frame;
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "coalescing":
    is_off_until_a_driver_asks_for_it = "mana_en.c: mana_cfg_vport_steering (0 until 7.0)",
    four_packets_share_a_completion = "mana.h: CQE_RX_COALESCED_4, MANA_RXCOMP_OOB_NUM_PPI",
    what_is_left_shares_one_too = "mana_en.c: mana_process_rx_cqe (a length of 0 ends the list)",
    a_packet_by_itself_is_told_as_ever = "mana_en.c: mana_process_rx_cqe, CQE_RX_OKAY",
    packets_of_which_something_else_is_said_do_not = "mana_en.c: mana_rx_skb",
    a_cut_frame_is_told_alone = "mana_en.c: mana_process_rx_cqe, CQE_RX_TRUNCATED",
    frames_lie_in_their_buffers = "mana_en.c: mana_process_rx_cqe (in posting order)",
    goes_on_for_laps = "mana_en.c: mana_post_pkt_rxq",
    a_fence_follows = "mana_en.c: mana_fence_rq",
    the_answer_says_how_long_packets_wait = "mana_en.c: mana_cfg_vport_steering, cqe_coalescing_timeout_ns",
    an_answer_of_version_1_is_enough = "mana_en.c: mana_cfg_vport_steering (6.12)",
    may_be_turned_off_under_traffic = "mana_ethtool.c: mana_set_coalesce",
    a_request_of_version_1_leaves_it = "mana_en.c: mana_cfg_vport_steering (6.1)",
    a_request_of_version_2_has_it = "mana.h: struct mana_cfg_rx_steer_req_v2",
    is_forgotten_with_the_driver = "mana_en.c: mana_probe",
}

/// Configures whether packets may share a completion.
fn set(driver: &mut Driver<'_>, vport: &Vport, coalesces: bool) -> Outcome {
    let rss = Rss {
        coalesces,
        ..Rss::default()
    };
    driver.succeed(&rss.request(vport.handle)).map(|_| ())
}

fn open(driver: &mut Driver<'_>) -> Outcome<Vport> {
    driver.start()?;
    let vport = driver.open_with(0, Sizes::LARGE)?;
    set(driver, &vport, true)?;
    Ok(vport)
}

/// Returns the length of the frame with a number.
fn length(number: usize) -> usize {
    60 + number
}

/// Has frames with these flags arrive in one batch. Returns the offset of the first
/// buffer's WQE.
fn arrive(driver: &mut Driver<'_>, vport: &mut Vport, flags: &[RxFlags]) -> Outcome<u32> {
    let mut places = Vec::new();
    for _ in flags {
        places.push(vport.post_buffer(driver, 256)?.1);
    }
    let frames = (0..flags.len()).map(|n| numbered_frame(length(n), n as u8));
    let frames: Vec<_> = frames.collect();
    let arrivals: Vec<_> = frames
        .iter()
        .map(|f| &f[..])
        .zip(flags.iter().copied())
        .collect();
    let found = driver.bench.receive(0, &arrivals);
    check_eq("frames that found a buffer", found, flags.len())?;
    Ok(places[0])
}

/// Checks that the next completion is of packets with these numbers.
fn take(
    driver: &mut Driver<'_>,
    vport: &mut Vport,
    cqe_type: CqeType,
    numbers: core::ops::Range<usize>,
) -> Outcome<Completion> {
    let completion = vport.rx.cq.expect(driver)?;
    vport.rx.cq.ring(driver, true);
    completion.check_type(cqe_type as u8)?;
    let found = completion.receive();
    let mut expected = [0; 4];
    for (place, number) in expected.iter_mut().zip(numbers) {
        *place = length(number) as u16;
    }
    let [second, third, fourth] = found.others;
    let lengths = [found.length, second, third, fourth];
    check_eq("lengths", lengths, expected)?;
    Ok(completion)
}

fn is_off_until_a_driver_asks_for_it(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    arrive(driver, &mut vport, &[RxFlags::IPV4; 4])?;
    for number in 0..4 {
        take(driver, &mut vport, CqeType::RxOkay, number..number + 1)?;
    }
    Ok(())
}

fn four_packets_share_a_completion(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    for _ in 0..3 {
        let place = arrive(driver, &mut vport, &[RxFlags::IPV4; 8])?;
        for (index, numbers) in [(0, 0..4), (4, 4..8)] {
            let found = take(driver, &mut vport, CqeType::RxCoalesced4, numbers)?.receive();
            let what = "WQE offset of the first packet";
            check_eq(what, found.wqe_offset, place + index * WQE_UNIT)?;
            check_eq("queue", (found.is_sq, found.wq), (false, vport.rx.wq.id))?;
            check_eq("client type", found.client_type, 1)?;
        }
        vport.rx.cq.expect_none(driver)?;
    }
    Ok(())
}

fn what_is_left_shares_one_too(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    for left in [2, 3] {
        arrive(driver, &mut vport, &[RxFlags::IPV4; 7][..4 + left])?;
        take(driver, &mut vport, CqeType::RxCoalesced4, 0..4)?;
        take(driver, &mut vport, CqeType::RxCoalesced4, 4..4 + left)?;
        vport.rx.cq.expect_none(driver)?;
    }
    Ok(())
}

fn a_packet_by_itself_is_told_as_ever(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    arrive(driver, &mut vport, &[RxFlags::IPV4])?;
    take(driver, &mut vport, CqeType::RxOkay, 0..1)?;
    arrive(driver, &mut vport, &[RxFlags::IPV4; 5])?;
    take(driver, &mut vport, CqeType::RxCoalesced4, 0..4)?;
    take(driver, &mut vport, CqeType::RxOkay, 4..5)?;
    vport.rx.cq.expect_none(driver)
}

fn packets_of_which_something_else_is_said_do_not(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    let good = RxFlags::IPV4 | RxFlags::TCP | RxFlags::L4_CHECKSUM_GOOD;
    let bad = RxFlags::IPV4 | RxFlags::TCP | RxFlags::L4_CHECKSUM_BAD;
    arrive(driver, &mut vport, &[good, good, bad, bad, good])?;
    let found = take(driver, &mut vport, CqeType::RxCoalesced4, 0..2)?.receive();
    check(found.flags.tcp_csum_succeed(), "a checksum is not good")?;
    let found = take(driver, &mut vport, CqeType::RxCoalesced4, 2..4)?.receive();
    check(found.flags.tcp_csum_fail(), "a checksum is not bad")?;
    take(driver, &mut vport, CqeType::RxOkay, 4..5).map(|_| ())
}

fn a_cut_frame_is_told_alone(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    for size in [256, 256, 10, 10, 256] {
        vport.post_buffer(driver, size)?;
    }
    let frames = [0, 1, 2, 3, 4].map(|number| numbered_frame(length(number), number as u8));
    let arrivals = frames.each_ref().map(|frame| (&frame[..], RxFlags::IPV4));
    check_eq("frames", driver.bench.receive(0, &arrivals), 5)?;
    take(driver, &mut vport, CqeType::RxCoalesced4, 0..2)?;
    take(driver, &mut vport, CqeType::RxTruncated, 2..3)?;
    take(driver, &mut vport, CqeType::RxTruncated, 3..4)?;
    take(driver, &mut vport, CqeType::RxOkay, 4..5).map(|_| ())
}

fn frames_lie_in_their_buffers(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    let mut addresses = Vec::new();
    for _ in 0..4 {
        addresses.push(vport.post_buffer(driver, 256)?.0);
    }
    let frames = [0, 1, 2, 3].map(|number| numbered_frame(length(number), number as u8));
    let arrivals = frames.each_ref().map(|frame| (&frame[..], RxFlags::IPV4));
    check_eq("frames", driver.bench.receive(0, &arrivals), 4)?;
    take(driver, &mut vport, CqeType::RxCoalesced4, 0..4)?;
    for (address, frame) in addresses.into_iter().zip(&frames) {
        let bytes = driver.read(address, frame.len());
        check_eq("received frame", &bytes, frame)?;
    }
    Ok(())
}

fn goes_on_for_laps(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut vport = driver.open(0)?;
    set(driver, &vport, true)?;
    let address = driver.pages(1)?;
    let buffer = Wqe::receive(&[sge(address, 256)]);
    let frame = numbered_frame(length(0), 0);
    for burst in (1..8).cycle().take(300) {
        for _ in 0..burst {
            vport.rx.wq.write(driver, &buffer);
        }
        vport.rx.wq.ring(driver);
        let arrivals: Vec<_> = (0..burst).map(|_| (&frame[..], RxFlags::IPV4)).collect();
        check_eq("frames", driver.bench.receive(0, &arrivals), burst)?;
        let done = vport.rx.cq.drain(driver)?;
        check_eq("completions", done.len(), burst.div_ceil(4))?;
        vport.rx.cq.ring(driver, true);
    }
    Ok(())
}

fn a_fence_follows(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    arrive(driver, &mut vport, &[RxFlags::IPV4; 4])?;
    driver.fence(vport.rx.handle)?.expect(Status::Success)?;
    take(driver, &mut vport, CqeType::RxCoalesced4, 0..4)?;
    take(driver, &mut vport, CqeType::RxObjectFence, 0..0).map(|_| ())
}

fn the_answer_says_how_long_packets_wait(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    let request = Rss {
        coalesces: true,
        ..Rss::default()
    };
    let found: ConfigVportRxResp = driver.ask(&request.request(vport.handle))?;
    check_eq("nanoseconds", found.cqe_coalescing_timeout_ns, 2048)
}

fn an_answer_of_version_1_is_enough(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let rss = Rss {
        coalesces: true,
        ..Rss::default()
    };
    let mut request = rss.request(vport.handle).versions(2, 1);
    request.header.resp.msg_size -= size_of::<ConfigVportRxResp>() as u32;
    driver.succeed(&request)?;
    arrive(driver, &mut vport, &[RxFlags::IPV4; 2])?;
    take(driver, &mut vport, CqeType::RxCoalesced4, 0..2).map(|_| ())
}

fn may_be_turned_off_under_traffic(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    for coalesces in [false, true, false] {
        set(driver, &vport, coalesces)?;
        arrive(driver, &mut vport, &[RxFlags::IPV4; 2])?;
        if coalesces {
            take(driver, &mut vport, CqeType::RxCoalesced4, 0..2)?;
        } else {
            take(driver, &mut vport, CqeType::RxOkay, 0..1)?;
            take(driver, &mut vport, CqeType::RxOkay, 1..2)?;
        }
    }
    Ok(())
}

fn a_request_of_version_1_leaves_it(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = open(driver)?;
    let nothing = steering(vport.handle);
    driver.steer(&nothing)?.expect(Status::Success)?;
    arrive(driver, &mut vport, &[RxFlags::IPV4; 4])?;
    take(driver, &mut vport, CqeType::RxCoalesced4, 0..4).map(|_| ())
}

fn a_request_of_version_2_has_it(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    let request = Request::new(code::CONFIG_VPORT_RX, &steering(vport.handle), 0);
    driver.refuse(&request.versions(2, 1), Status::TooShort)
}

fn is_forgotten_with_the_driver(driver: &mut Driver<'_>) -> Outcome {
    open(driver)?;
    driver.deregister()?;
    driver.register()?;
    let mut vport = driver.open(0)?;
    arrive(driver, &mut vport, &[RxFlags::IPV4; 2])?;
    take(driver, &mut vport, CqeType::RxOkay, 0..1)?;
    take(driver, &mut vport, CqeType::RxOkay, 1..2).map(|_| ())
}
