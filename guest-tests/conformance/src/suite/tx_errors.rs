//! Invalid transmits, and their completions.

use device_kit::platform::TxStatus;
use mana_wire::oob::{CqeType, TxLongOob, TxShortOob};
use mana_wire::queue::{QueueType, Sge};

use crate::bench::MEMORY_SIZE;
use crate::driver::Driver;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::{frame, long, short};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check_eq};

super::declare! { "tx_errors":
    no_pieces = "gdma_main.c: mana_gd_post_work_request (num_sge == 0)",
    an_empty_piece = "hostile guest: bad input, entries with zero SGEs",
    another_memory_key = "gdma.h: struct gdma_sge, mem_key",
    a_piece_outside_memory = "openvmm gdma_defs: CQE_TX_GDMA_ERR",
    a_piece_at_the_end_of_the_address_space = "openvmm gdma_defs: CQE_TX_GDMA_ERR",
    too_long_for_the_port = "mana.h: CQE_TX_MTU_DROP",
    too_long_with_another_tag = "mana.h: CQE_TX_MTU_DROP, inject_vlan_pri_tag",
    a_jumbo_frame = "mana.h: CQE_TX_MTU_DROP",
    lengths_that_overflow = "hostile guest: bad input, lengths that overflow",
    a_long_format_in_a_short_oob = "mana.h: CQE_TX_INVALID_OOB, MANA_LONG_PKT_FMT",
    an_unknown_format = "mana.h: CQE_TX_INVALID_OOB, enum mana_tx_pkt_format",
    an_encapsulated_packet = "mana.h: CQE_TX_INVALID_OOB, is_encap",
    another_completion_queue = "mana.h: CQE_TX_INVALID_OOB, vcq_num",
    another_send_queue = "mana.h: CQE_TX_INVALID_OOB, vsq_frame",
    another_short_offset = "mana.h: CQE_TX_VPORT_IDX_OUT_OF_RANGE, short_vp_offset",
    another_long_offset = "mana.h: CQE_TX_VPORT_IDX_OUT_OF_RANGE, long_vp_offset",
    a_vport_that_may_not_transmit = "mana.h: CQE_TX_VPORT_DISABLED",
    an_oob_of_no_known_length = "gdma.h: struct gdma_wqe, inline_oob_size_div4",
    an_entry_longer_than_the_most = "gdma.h: GDMA_MAX_SQE_SIZE",
    an_entry_longer_than_what_is_posted = "gdma.h: struct gdma_wqe, num_sge",
    what_the_port_says_is_passed_on = "mana_en.c: mana_poll_tx_cq",
    good_ones_around_a_bad_one_are_sent = "reference: process ends the data path at the first error",
    all_at_once = "mana_en.c: mana_poll_tx_cq",
}

/// Creates a vport, and a frame of 60 bytes in memory.
fn new(driver: &mut Driver<'_>) -> Outcome<(Vport, Sge)> {
    let vport = driver.start_and_open()?;
    let address = driver.place(&frame(60))?;
    Ok((vport, sge(address, 60)))
}

/// Checks that a packet of these SGEs fails with this completion, and that the vport
/// continues.
fn fails(driver: &mut Driver<'_>, sgl: &[Sge], how: CqeType) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let wqe = vport.packet(sgl);
    vport.fail(driver, &wqe, how)?;
    vport.works(driver)
}

fn no_pieces(driver: &mut Driver<'_>) -> Outcome {
    fails(driver, &[], CqeType::TxGdmaError)
}

fn an_empty_piece(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.place(&frame(60))?;
    let sgl = [sge(address, 60), sge(address, 0)];
    fails(driver, &sgl[1..], CqeType::TxGdmaError)?;
    driver.bench.reset();
    fails(driver, &sgl, CqeType::TxGdmaError)
}

fn another_memory_key(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.place(&frame(60))?;
    let mut other = sge(address, 60);
    other.mem_key += 1;
    fails(driver, &[other], CqeType::TxGdmaError)?;
    driver.bench.reset();
    fails(driver, &[sge(address, 60), other], CqeType::TxGdmaError)
}

fn a_piece_outside_memory(driver: &mut Driver<'_>) -> Outcome {
    let outside = sge(MEMORY_SIZE - 30, 60);
    fails(driver, &[outside], CqeType::TxGdmaError)
}

fn a_piece_at_the_end_of_the_address_space(driver: &mut Driver<'_>) -> Outcome {
    fails(driver, &[sge(u64::MAX - 30, 60)], CqeType::TxGdmaError)
}

fn too_long_for_the_port(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.place(&[0; 1523])?;
    fails(driver, &[sge(address, 1523)], CqeType::TxMtuDrop)
}

/// An inserted tag is one of the two that a frame may have.
fn too_long_with_another_tag(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&[0; 1519])?;
    let behind = TxLongOob::new().with_inject_vlan_pri_tag(true);
    let tagged = |length| Wqe::new(&long(vport.oob(), behind), &[sge(address, length)]);
    let (fits, too_long) = (tagged(1518), tagged(1519));
    vport.send_wqe(driver, &fits)?;
    vport.fail(driver, &too_long, CqeType::TxMtuDrop)
}

fn a_jumbo_frame(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.place(&[0; 9014])?;
    fails(driver, &[sge(address, 9014)], CqeType::TxMtuDrop)
}

fn lengths_that_overflow(driver: &mut Driver<'_>) -> Outcome {
    let address = driver.place(&frame(60))?;
    // Sums to 60 in 32 bits.
    let sgl = [
        sge(address, 1 << 31),
        sge(address, 1 << 31),
        sge(address, 60),
    ];
    fails(driver, &sgl, CqeType::TxMtuDrop)
}

/// Checks that a packet with this short OOB fails with this completion.
fn oob_fails(
    driver: &mut Driver<'_>,
    spoil: impl FnOnce(TxShortOob) -> [u8; 8],
    how: CqeType,
) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    let wqe = Wqe::new(&spoil(vport.oob()), &[piece]);
    vport.fail(driver, &wqe, how)?;
    vport.works(driver)
}

fn a_long_format_in_a_short_oob(driver: &mut Driver<'_>) -> Outcome {
    let spoil = |oob: TxShortOob| oob.with_pkt_fmt(1).into_bits().to_le_bytes();
    oob_fails(driver, spoil, CqeType::TxInvalidOob)
}

fn an_unknown_format(driver: &mut Driver<'_>) -> Outcome {
    let spoil = |oob: TxShortOob| oob.with_pkt_fmt(2).into_bits().to_le_bytes();
    oob_fails(driver, spoil, CqeType::TxInvalidOob)
}

fn long_oob_fails(driver: &mut Driver<'_>, behind: TxLongOob, how: CqeType) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    let wqe = Wqe::new(&long(vport.oob(), behind), &[piece]);
    vport.fail(driver, &wqe, how)?;
    vport.works(driver)
}

fn an_encapsulated_packet(driver: &mut Driver<'_>) -> Outcome {
    let behind = TxLongOob::new().with_is_encap(true);
    long_oob_fails(driver, behind, CqeType::TxInvalidOob)
}

fn another_completion_queue(driver: &mut Driver<'_>) -> Outcome {
    let spoil = |oob: TxShortOob| short(oob.with_vcq_num(oob.vcq_num() + 1));
    oob_fails(driver, spoil, CqeType::TxInvalidOob)
}

fn another_send_queue(driver: &mut Driver<'_>) -> Outcome {
    let spoil = |oob: TxShortOob| short(oob.with_vsq_frame(oob.vsq_frame() + 1));
    oob_fails(driver, spoil, CqeType::TxInvalidOob)
}

fn another_short_offset(driver: &mut Driver<'_>) -> Outcome {
    let spoil = |oob: TxShortOob| short(oob.with_short_vp_offset(oob.short_vp_offset() ^ 1));
    oob_fails(driver, spoil, CqeType::TxVportIdxOutOfRange)
}

fn another_long_offset(driver: &mut Driver<'_>) -> Outcome {
    let behind = TxLongOob::new().with_long_vp_offset(0xabc);
    long_oob_fails(driver, behind, CqeType::TxVportIdxOutOfRange)
}

fn a_vport_that_may_not_transmit(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let handle = driver.query_vport(0)?.vport;
    let mut object = driver.create_object(handle, QueueType::Sq, None, Sizes::SMALL)?;
    let address = driver.place(&frame(60))?;
    let oob = TxShortOob::new().with_vcq_num(object.cq.id);
    let wqe = Wqe::new(&short(oob), &[sge(address, 60)]);
    object.wq.post(driver, &wqe);
    let completion = object.cq.expect(driver)?;
    completion.check_type(CqeType::TxVportDisabled as u8)?;
    check_eq("packets", driver.bench.take_transmitted(0).len(), 0)
}

fn an_oob_of_no_known_length(driver: &mut Driver<'_>) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    for words in [0, 1, 3, 4, 5] {
        let mut wqe = vport.packet(&[piece]);
        wqe.header.set_inline_oob_size_div4(words);
        vport.fail(driver, &wqe, CqeType::TxInvalidOob)?;
    }
    vport.works(driver)
}

fn an_entry_longer_than_the_most(driver: &mut Driver<'_>) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    let piece = sge(piece.address, 1);
    let wqe = vport.packet(&[piece; 32]);
    vport.fail(driver, &wqe, CqeType::TxInvalidOob)?;
    let wqe = Wqe::new(&long(vport.oob(), TxLongOob::new()), &[piece; 31]);
    vport.fail(driver, &wqe, CqeType::TxInvalidOob)?;
    vport.works(driver)
}

fn an_entry_longer_than_what_is_posted(driver: &mut Driver<'_>) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    // By many units, and by one.
    for (pieces, posted) in [(20, 64), (2, 32)] {
        let mut bytes = vport.packet(&alloc::vec![piece; pieces]).to_bytes();
        bytes.truncate(posted);
        vport.tx.wq.write_bytes(driver, &bytes);
        vport.tx.wq.ring(driver);
        let completion = vport.tx.cq.expect(driver)?;
        completion.check_type(CqeType::TxInvalidOob as u8)?;
    }
    vport.works(driver)
}

/// Statuses that a port may return, and the types of the completions.
const STATUSES: [(TxStatus, CqeType); 5] = [
    (TxStatus::Sent, CqeType::TxOkay),
    (TxStatus::Dropped, CqeType::TxOkay),
    (TxStatus::MemoryFault, CqeType::TxGdmaError),
    (TxStatus::TooLong, CqeType::TxMtuDrop),
    (TxStatus::BadHeaders, CqeType::TxHdrProcessingError),
];

fn what_the_port_says_is_passed_on(driver: &mut Driver<'_>) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    for (status, expected) in STATUSES {
        driver.bench.plan_transmits(0, &[status]);
        let wqe = vport.packet(&[piece]);
        vport.transmit(driver, &wqe)?.expect(expected)?;
    }
    Ok(())
}

fn good_ones_around_a_bad_one_are_sent(driver: &mut Driver<'_>) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    let good = vport.packet(&[piece]);
    let bad = vport.packet(&[]);
    for wqe in [&good, &bad, &good, &bad, &bad, &good] {
        vport.tx.wq.write(driver, wqe);
    }
    vport.tx.wq.ring(driver);
    let (good, bad) = (CqeType::TxOkay, CqeType::TxGdmaError);
    for expected in [good, bad, good, bad, bad, good] {
        vport.tx.cq.expect(driver)?.check_type(expected as u8)?;
    }
    check_eq("packets", driver.bench.take_transmitted(0).len(), 3)
}

fn all_at_once(driver: &mut Driver<'_>) -> Outcome {
    let (mut vport, piece) = new(driver)?;
    let statuses = STATUSES.map(|(status, _)| status);
    driver.bench.plan_transmits(0, &statuses);
    let wqe = vport.packet(&[piece]);
    for _ in STATUSES {
        vport.tx.wq.write(driver, &wqe);
    }
    vport.tx.wq.ring(driver);
    for (_, expected) in STATUSES {
        vport.tx.cq.expect(driver)?.check_type(expected as u8)?;
    }
    vport.tx.cq.expect_none(driver)
}
