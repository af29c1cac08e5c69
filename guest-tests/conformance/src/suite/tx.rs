//! Transmitted packets, and their completions.

use alloc::vec::Vec;

use device_kit::platform::TxStatus;
use mana_wire::oob::{CqeType, TxLongOob};
use mana_wire::queue::Sge;

use crate::driver::Driver;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::{frame, long, numbered_frame, short};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{During, Outcome, check_eq};

super::declare! { "tx":
    sends_1_byte = "mana_en.c: mana_start_xmit",
    sends_a_header_alone = "mana_en.c: mana_start_xmit",
    sends_the_shortest_frame = "mana_en.c: mana_start_xmit",
    sends_the_longest_frame = "mana_en.c: mana_probe_port, adapter_mtu",
    sends_the_longest_frame_with_a_tag = "mana_en.c: mana_probe_port, ETH_HLEN",
    sends_the_longest_frame_with_two_tags = "mana_en.c: mana_probe_port, ETH_HLEN (802.1Q in 802.1ad)",
    sends_every_length_around_a_page = "mana_en.c: mana_map_skb",
    sends_from_any_alignment = "mana_en.c: mana_map_skb",
    sends_1_to_31_pieces_with_a_short_oob = "gdma.h: MAX_TX_WQE_SGL_ENTRIES, INLINE_OOB_SMALL_SIZE",
    sends_1_to_30_pieces_with_a_long_oob = "gdma.h: MAX_TX_WQE_SGL_ENTRIES, INLINE_OOB_LARGE_SIZE",
    takes_an_oob_of_32_bytes = "openvmm gdma_defs: CLIENT_OOB_32",
    takes_the_offset_in_either_place = "mana_en.c: mana_start_xmit, MANA_SHORT_VPORT_OFFSET_MAX",
    completes_in_order = "mana_en.c: mana_poll_tx_cq",
    one_doorbell_sends_many = "gdma_main.c: mana_gd_wq_ring_doorbell",
    one_doorbell_sends_more_than_a_turn = "gdma_main.c: mana_gd_wq_ring_doorbell",
    suppresses_completions = "mana.h: supress_txcqe_gen",
    suppresses_completions_of_several_pieces = "mana.h: supress_txcqe_gen",
    completes_behind_suppressed_ones = "mana.h: supress_txcqe_gen",
    suppresses_no_errors = "mana.h: supress_txcqe_gen",
    a_pending_one_completes_when_it_ends = "WIT: tx-status.pending",
    pending_ones_complete_in_order = "mana_en.c: mana_poll_tx_cq (in posting order)",
    those_behind_a_pending_one_wait = "mana_en.c: mana_poll_tx_cq (in posting order)",
    those_posted_behind_a_pending_one_wait = "mana_en.c: mana_poll_tx_cq (in posting order)",
    a_pending_one_may_fail = "WIT: tx-completion",
    pending_ones_of_several_pieces_end_each_in_its_way = "WIT: tx-completion.id",
    suppression_holds_for_pending_ones = "mana.h: supress_txcqe_gen",
    raises_one_interrupt_for_many = "mana_en.c: mana_schedule_napi",
    sends_after_an_error = "reference: process ends the data path at the first error",
    sends_what_lies_on_both_sides_of_the_end = "gdma_main.c: mana_gd_write_sgl",
    a_doorbell_without_entries_is_harmless = "gdma_main.c: mana_gd_wq_ring_doorbell",
    reads_memory_when_the_doorbell_rings = "gdma_main.c: mana_gd_wq_ring_doorbell (wmb)",
}

fn sends(driver: &mut Driver<'_>, lengths: impl IntoIterator<Item = usize>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for length in lengths {
        vport
            .send(driver, &frame(length))
            .during(format_args!("a frame of {length} bytes"))?;
    }
    Ok(())
}

fn sends_1_byte(driver: &mut Driver<'_>) -> Outcome {
    sends(driver, [1])
}

fn sends_a_header_alone(driver: &mut Driver<'_>) -> Outcome {
    sends(driver, [14])
}

fn sends_the_shortest_frame(driver: &mut Driver<'_>) -> Outcome {
    sends(driver, [59, 60, 61])
}

fn sends_the_longest_frame(driver: &mut Driver<'_>) -> Outcome {
    sends(driver, [1513, 1514])
}

fn sends_the_longest_frame_with_a_tag(driver: &mut Driver<'_>) -> Outcome {
    sends(driver, [1518])
}

fn sends_the_longest_frame_with_two_tags(driver: &mut Driver<'_>) -> Outcome {
    sends(driver, [1522])
}

fn sends_every_length_around_a_page(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let page = driver.pages(2)? + 4096;
    for before in (0..1514).step_by(101) {
        let frame = frame(1514);
        let address = page - before;
        driver.bench.write_memory(address, &frame);
        let sent = vport.send_wqe(driver, &vport.packet(&[sge(address, 1514)]))?;
        check_eq("frame at the port", sent.frame, frame)?;
    }
    Ok(())
}

fn sends_from_any_alignment(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let page = driver.pages(1)?;
    for offset in 0..16 {
        let frame = frame(77);
        driver.bench.write_memory(page + offset, &frame);
        let wqe = vport.packet(&[sge(page + offset, 77)]);
        let sent = vport.send_wqe(driver, &wqe)?;
        check_eq("frame at the port", sent.frame, frame)?;
    }
    Ok(())
}

/// Returns SGEs that split a frame into this many pieces, with gaps between them.
fn pieces(driver: &mut Driver<'_>, count: usize) -> Outcome<(Vec<u8>, Vec<Sge>)> {
    let frame = frame(40 * count + count / 2);
    let mut sgl = Vec::new();
    for piece in 0..count {
        let end = if piece + 1 == count {
            frame.len()
        } else {
            40 * (piece + 1)
        };
        let part = &frame[40 * piece..end];
        sgl.push(sge(driver.place(part)?, part.len() as u32));
    }
    Ok((frame, sgl))
}

fn sends_pieces(
    driver: &mut Driver<'_>,
    most: usize,
    wqe: impl Fn(&Vport, &[Sge]) -> Wqe,
) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for count in 1..=most {
        let (frame, sgl) = pieces(driver, count)?;
        let wqe = wqe(&vport, &sgl);
        let sent = vport
            .send_wqe(driver, &wqe)
            .during(format_args!("{count} pieces"))?;
        check_eq("frame at the port", sent.frame, frame)?;
        check_eq("segments", usize::from(sent.segments), count)?;
    }
    Ok(())
}

fn sends_1_to_31_pieces_with_a_short_oob(driver: &mut Driver<'_>) -> Outcome {
    sends_pieces(driver, 31, |vport, sgl| vport.packet(sgl))
}

fn sends_1_to_30_pieces_with_a_long_oob(driver: &mut Driver<'_>) -> Outcome {
    sends_pieces(driver, 30, |vport, sgl| {
        Wqe::new(&long(vport.oob(), TxLongOob::new()), sgl)
    })
}

fn takes_an_oob_of_32_bytes(driver: &mut Driver<'_>) -> Outcome {
    sends_pieces(driver, 29, |vport, sgl| {
        let mut oob = [0; 32];
        oob[..24].copy_from_slice(&long(vport.oob(), TxLongOob::new()));
        let mut wqe = Wqe::new(&oob, sgl);
        wqe.header.set_inline_oob_size_div4(7);
        wqe
    })
}

fn takes_the_offset_in_either_place(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(60))?;
    let behind = TxLongOob::new().with_long_vp_offset(vport.vp_offset);
    let oob = long(vport.oob().with_short_vp_offset(0), behind);
    vport.send_wqe(driver, &Wqe::new(&oob, &[sge(address, 60)]))?;
    let oob = long(vport.oob(), TxLongOob::new());
    vport.send_wqe(driver, &Wqe::new(&oob, &[sge(address, 60)]))?;
    Ok(())
}

/// Posts frames that carry their numbers, with one doorbell.
fn post(driver: &mut Driver<'_>, vport: &mut Vport, count: usize) -> Outcome<Vec<u32>> {
    let mut offsets = Vec::new();
    for number in 0..count {
        let frame = numbered_frame(60, number as u8);
        let address = driver.place(&frame)?;
        let wqe = vport.packet(&[sge(address, 60)]);
        offsets.push(vport.tx.wq.write(driver, &wqe));
    }
    vport.tx.wq.ring(driver);
    Ok(offsets)
}

/// Checks that the WQEs at these offsets complete in this order, without errors.
fn completed(driver: &mut Driver<'_>, vport: &mut Vport, offsets: &[u32]) -> Outcome {
    for offset in offsets {
        let completion = vport.tx.cq.expect(driver)?;
        completion.check_type(CqeType::TxOkay as u8)?;
        let found = completion.transmit().wqe_offset;
        check_eq(
            format_args!("WQE offset of {completion:?}"),
            found,
            offset / 32,
        )?;
    }
    vport.tx.cq.expect_none(driver)?;
    vport.tx.cq.ring(driver, true);
    Ok(())
}

fn numbers(driver: &mut Driver<'_>) -> Vec<u8> {
    let sent = driver.bench.take_transmitted(0);
    sent.iter().map(|packet| packet.frame[14]).collect()
}

fn sends_in_one_doorbell(driver: &mut Driver<'_>, count: usize) -> Outcome {
    driver.start()?;
    let mut vport = driver.open_with(0, Sizes::LARGE)?;
    let mut offsets = post(driver, &mut vport, count)?;
    let expected: Vec<u8> = (0..count).map(|number| number as u8).collect();
    check_eq("packets in order", numbers(driver), expected)?;
    // The completion queue holds 512.
    offsets.truncate(512);
    completed(driver, &mut vport, &offsets)
}

fn completes_in_order(driver: &mut Driver<'_>) -> Outcome {
    sends_in_one_doorbell(driver, 7)
}

fn one_doorbell_sends_many(driver: &mut Driver<'_>) -> Outcome {
    sends_in_one_doorbell(driver, 65)
}

fn one_doorbell_sends_more_than_a_turn(driver: &mut Driver<'_>) -> Outcome {
    sends_in_one_doorbell(driver, 600)
}

fn suppressed(driver: &mut Driver<'_>, vport: &Vport, length: u32) -> Outcome<Wqe> {
    let address = driver.place(&frame(60))?;
    let oob = vport.oob().with_suppress_txcqe_gen(true);
    Ok(Wqe::new(&short(oob), &[sge(address, length)]))
}

fn suppresses_completions(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = suppressed(driver, &vport, 60)?;
    vport.tx.wq.post(driver, &wqe);
    check_eq("packets", driver.bench.take_transmitted(0).len(), 1)?;
    vport.tx.cq.expect_none(driver)?;
    driver.expect_interrupts(vport.eq.vector, 0)
}

fn suppresses_completions_of_several_pieces(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(60))?;
    let oob = vport.oob().with_suppress_txcqe_gen(true);
    let pieces = [sge(address, 20), sge(address + 20, 40)];
    vport.tx.wq.post(driver, &Wqe::new(&short(oob), &pieces));
    check_eq("packets", driver.bench.take_transmitted(0).len(), 1)?;
    vport.tx.cq.expect_none(driver)
}

fn completes_behind_suppressed_ones(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    // Enough to reuse the queue's memory several times.
    for _ in 0..500 {
        let wqe = suppressed(driver, &vport, 60)?;
        vport.tx.wq.post(driver, &wqe);
    }
    check_eq("packets", driver.bench.take_transmitted(0).len(), 500)?;
    vport.send(driver, &frame(60)).map(|_| ())
}

fn suppresses_no_errors(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = suppressed(driver, &vport, 0)?;
    vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
    driver.bench.plan_transmits(0, &[TxStatus::TooLong]);
    let wqe = suppressed(driver, &vport, 60)?;
    vport.transmit(driver, &wqe)?.expect(CqeType::TxMtuDrop)
}

const PENDING: TxStatus = TxStatus::Pending;

fn a_pending_one_completes_when_it_ends(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[PENDING]);
    let offsets = post(driver, &mut vport, 1)?;
    vport.tx.cq.expect_none(driver)?;
    driver.expect_interrupts(1, 0)?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    driver.expect_interrupts(1, 1)?;
    completed(driver, &mut vport, &offsets)
}

fn pending_ones_complete_in_order(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[PENDING; 5]);
    let offsets = post(driver, &mut vport, 5)?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    completed(driver, &mut vport, &offsets[..1])?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent; 3]);
    completed(driver, &mut vport, &offsets[1..4])?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    completed(driver, &mut vport, &offsets[4..])
}

fn those_behind_a_pending_one_wait(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver
        .bench
        .plan_transmits(0, &[TxStatus::Sent, PENDING, TxStatus::Sent]);
    let offsets = post(driver, &mut vport, 4)?;
    completed(driver, &mut vport, &offsets[..1])?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    completed(driver, &mut vport, &offsets[1..])
}

fn those_posted_behind_a_pending_one_wait(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[PENDING]);
    let mut offsets = post(driver, &mut vport, 1)?;
    offsets.extend(post(driver, &mut vport, 2)?);
    // Batches that are sent at once, and batches of which one packet is not.
    driver
        .bench
        .plan_transmits(0, &[TxStatus::Sent, TxStatus::Dropped]);
    offsets.extend(post(driver, &mut vport, 2)?);
    vport.tx.cq.expect_none(driver)?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    completed(driver, &mut vport, &offsets)
}

/// Statuses of pending packets, and the types of their completions.
const ENDS: [(TxStatus, CqeType); 4] = [
    (TxStatus::MemoryFault, CqeType::TxGdmaError),
    (TxStatus::TooLong, CqeType::TxMtuDrop),
    (TxStatus::BadHeaders, CqeType::TxHdrProcessingError),
    (TxStatus::Dropped, CqeType::TxOkay),
];

/// Ends four pending packets, and checks that each has its own completion.
fn expect_ends(driver: &mut Driver<'_>, vport: &mut Vport) -> Outcome {
    let ends = ENDS.map(|(status, _)| status);
    driver.bench.finish_transmit(0, &ends);
    for (_, expected) in ENDS {
        vport.tx.cq.expect(driver)?.check_type(expected as u8)?;
    }
    Ok(())
}

fn a_pending_one_may_fail(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[PENDING; 4]);
    post(driver, &mut vport, 4)?;
    expect_ends(driver, &mut vport)
}

fn pending_ones_of_several_pieces_end_each_in_its_way(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[PENDING; 4]);
    let address = driver.place(&frame(60))?;
    let wqe = vport.packet(&[sge(address, 20), sge(address + 20, 40)]);
    for _ in 0..4 {
        vport.tx.wq.write(driver, &wqe);
    }
    vport.tx.wq.ring(driver);
    expect_ends(driver, &mut vport)
}

fn suppression_holds_for_pending_ones(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[PENDING]);
    let wqe = suppressed(driver, &vport, 60)?;
    vport.tx.wq.post(driver, &wqe);
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    vport.tx.cq.expect_none(driver)?;
    driver.bench.take_transmitted(0);
    vport.works(driver)
}

fn raises_one_interrupt_for_many(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    post(driver, &mut vport, 30)?;
    driver.expect_interrupts(vport.eq.vector, 1)?;
    check_eq("events", vport.eq.drain(driver)?.len(), 1)
}

fn sends_after_an_error(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for _ in 0..3 {
        let empty = vport.packet(&[]);
        vport.fail(driver, &empty, CqeType::TxGdmaError)?;
        vport.send(driver, &frame(60))?;
    }
    Ok(())
}

fn sends_what_lies_on_both_sides_of_the_end(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    // Entries of 96 bytes in a queue of 4096: each third one wraps.
    for _ in 0..130 {
        let (frame, sgl) = pieces(driver, 4)?;
        let wqe = vport.packet(&sgl);
        let sent = vport.send_wqe(driver, &wqe)?;
        check_eq("frame at the port", sent.frame, frame)?;
    }
    Ok(())
}

fn a_doorbell_without_entries_is_harmless(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for _ in 0..3 {
        vport.tx.wq.ring(driver);
        vport.rx.wq.ring(driver);
    }
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    vport.works(driver)
}

fn reads_memory_when_the_doorbell_rings(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&[0; 60])?;
    let wqe = vport.packet(&[sge(address, 60)]);
    vport.tx.wq.write(driver, &wqe);
    check_eq("packets", driver.bench.take_transmitted(0).len(), 0)?;
    driver.bench.write_memory(address, &frame(60));
    vport.tx.wq.ring(driver);
    let sent = driver.bench.take_transmitted(0);
    let sent: Vec<Vec<u8>> = sent.into_iter().map(|packet| packet.frame).collect();
    check_eq("frames at the port", sent, [frame(60)].into())
}
