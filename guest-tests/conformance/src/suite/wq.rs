//! Work queues: positions, doorbells, wrap-around.

use device_kit::platform::RxFlags;
use mana_wire::oob::CqeType;
use mana_wire::queue::{PAGE_SIZE, QueueType, doorbell};

use crate::driver::Driver;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::{frame, numbered_frame};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check_eq};

super::declare! { "wq":
    send_wraps_at_1_page = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    send_wraps_at_2_pages = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    send_wraps_at_4_pages = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    send_wraps_at_8_pages = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    receive_wraps_at_1_page = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    receive_wraps_at_2_pages = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    receive_wraps_at_4_pages = "gdma_main.c: mana_gd_get_wqe_ptr, mana_gd_write_sgl",
    a_whole_queue_may_be_posted = "gdma_main.c: mana_gd_wq_avail_space",
    ignores_send_doorbells_that_go_backwards = "hostile guest: bad input, positions that go backwards",
    ignores_send_doorbells_that_go_too_far = "hostile guest: bad input, positions beyond what was posted",
    ignores_send_doorbells_of_part_of_a_unit = "gdma.h: GDMA_WQE_BU_SIZE",
    ignores_send_doorbells_that_take_back_what_waits = "hostile guest: bad input, positions that go backwards",
    ignores_receive_doorbells_that_go_backwards = "hostile guest: bad input, positions that go backwards",
    ignores_receive_doorbells_that_go_too_far = "hostile guest: bad input, positions beyond what was posted",
    ignores_receive_doorbells_of_part_of_a_unit = "gdma.h: GDMA_WQE_BU_SIZE",
    ignores_doorbells_of_no_queue = "hostile guest: bad input, id 0",
    ignores_doorbells_of_the_other_type = "gdma_main.c: mana_gd_ring_doorbell",
    a_count_in_the_doorbell_changes_nothing = "gdma_main.c: mana_gd_ring_doorbell, wqe_cnt",
    counts_what_waits_as_posted = "gdma_main.c: mana_gd_wq_avail_space",
    a_queue_of_no_object_does_nothing = "gdma_main.c: mana_gd_create_mana_wq_cq",
    bad_doorbells_are_counted = "hostile guest: bad input",
}

fn send_wraps_at_1_page(driver: &mut Driver<'_>) -> Outcome {
    send_wraps(driver, 1)
}

fn send_wraps_at_2_pages(driver: &mut Driver<'_>) -> Outcome {
    send_wraps(driver, 2)
}

fn send_wraps_at_4_pages(driver: &mut Driver<'_>) -> Outcome {
    send_wraps(driver, 4)
}

fn send_wraps_at_8_pages(driver: &mut Driver<'_>) -> Outcome {
    send_wraps(driver, 8)
}

fn of_pages(driver: &mut Driver<'_>, pages: u32) -> Outcome<Vport> {
    driver.start()?;
    let sizes = Sizes {
        wq: pages * PAGE_SIZE,
        ..Sizes::SMALL
    };
    driver.open_with(0, sizes)
}

/// Sends WQEs of every size until the queue has wrapped three times.
fn send_wraps(driver: &mut Driver<'_>, pages: u32) -> Outcome {
    let mut vport = of_pages(driver, pages)?;
    let mut count = 0;
    while vport.tx.wq.head < 3 * vport.tx.wq.memory.size() + 4096 {
        count = count % 31 + 1;
        let frame = numbered_frame(20 * count, count as u8);
        let address = driver.place(&frame)?;
        let pieces = (0..count as u64).map(|n| sge(address + 20 * n, 20));
        let sgl: alloc::vec::Vec<_> = pieces.collect();
        let wqe = vport.packet(&sgl);
        let sent = vport.send_wqe(driver, &wqe)?;
        check_eq("frame at the port", sent.frame, frame)?;
    }
    Ok(())
}

fn receive_wraps_at_1_page(driver: &mut Driver<'_>) -> Outcome {
    receive_wraps(driver, 1)
}

fn receive_wraps_at_2_pages(driver: &mut Driver<'_>) -> Outcome {
    receive_wraps(driver, 2)
}

fn receive_wraps_at_4_pages(driver: &mut Driver<'_>) -> Outcome {
    receive_wraps(driver, 4)
}

/// Posts buffers of every number of SGEs until the queue has wrapped three times.
fn receive_wraps(driver: &mut Driver<'_>, pages: u32) -> Outcome {
    let mut vport = of_pages(driver, pages)?;
    let mut count = 0;
    while vport.rx.wq.head < 3 * vport.rx.wq.memory.size() + 4096 {
        count = count % 15 + 1;
        let frame = numbered_frame(20 * count, count as u8);
        let address = driver.place(&[0; 300])?;
        let pieces = (0..count as u64).map(|n| sge(address + 20 * n, 20));
        let sgl: alloc::vec::Vec<_> = pieces.collect();
        let offset = vport.rx.wq.post(driver, &Wqe::receive(&sgl));
        vport.arrive(driver, &frame, RxFlags::empty())?;
        vport.take_frame(driver, &frame, address, offset)?;
    }
    Ok(())
}

fn packet(driver: &mut Driver<'_>, vport: &Vport) -> Outcome<Wqe> {
    let address = driver.place(&frame(60))?;
    Ok(vport.packet(&[sge(address, 60)]))
}

fn a_whole_queue_may_be_posted(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let sizes = Sizes {
        cq: 2 * PAGE_SIZE,
        ..Sizes::SMALL
    };
    let mut vport = driver.open_with(0, sizes)?;
    let wqe = packet(driver, &vport)?;
    for _ in 0..2 {
        for _ in 0..128 {
            vport.tx.wq.write(driver, &wqe);
        }
        vport.tx.wq.ring(driver);
        check_eq("packets", driver.bench.take_transmitted(0).len(), 128)?;
        check_eq("completions", vport.tx.cq.drain(driver)?.len(), 128)?;
        vport.tx.cq.ring(driver, true);
    }
    Ok(())
}

/// A WQE is posted with an invalid doorbell, which is ignored; then with the right one.
fn ignores_send(driver: &mut Driver<'_>, wrong: impl FnOnce(u32) -> u32) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.works(driver)?;
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.write(driver, &wqe);
    let wrong = wrong(vport.tx.wq.head);
    driver.ring_wq(doorbell::SQ, vport.tx.wq.id, wrong);
    check_eq("packets", driver.bench.take_transmitted(0).len(), 0)?;
    vport.tx.cq.expect_none(driver)?;
    vport.tx.wq.ring(driver);
    check_eq("packets", driver.bench.take_transmitted(0).len(), 1)?;
    let completion = vport.tx.cq.expect(driver)?;
    completion.check_type(CqeType::TxOkay as u8)
}

fn ignores_send_doorbells_that_go_backwards(driver: &mut Driver<'_>) -> Outcome {
    ignores_send(driver, |head| head - 64)?;
    driver.bench.reset();
    ignores_send(driver, |head| head.wrapping_sub(4096))
}

fn ignores_send_doorbells_that_go_too_far(driver: &mut Driver<'_>) -> Outcome {
    ignores_send(driver, |head| head + 4096)?;
    driver.bench.reset();
    ignores_send(driver, |head| head.wrapping_add(1 << 31))
}

fn ignores_send_doorbells_of_part_of_a_unit(driver: &mut Driver<'_>) -> Outcome {
    ignores_send(driver, |head| head - 1)
}

fn ignores_send_doorbells_that_take_back_what_waits(driver: &mut Driver<'_>) -> Outcome {
    use device_kit::platform::TxStatus;
    let mut vport = driver.start_and_open()?;
    let wqe = packet(driver, &vport)?;
    driver.bench.plan_transmits(0, &[TxStatus::Pending; 4]);
    for _ in 0..4 {
        vport.tx.wq.post(driver, &wqe);
    }
    let two_less = vport.tx.wq.head - 64;
    driver.ring_wq(doorbell::SQ, vport.tx.wq.id, two_less);
    driver.bench.finish_transmit(0, &[TxStatus::Sent; 4]);
    check_eq("completions", vport.tx.cq.drain(driver)?.len(), 4)?;
    check_eq("packets", driver.bench.take_transmitted(0).len(), 4)?;
    vport.works(driver)
}

fn ignores_receive(driver: &mut Driver<'_>, wrong: impl FnOnce(u32) -> u32) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.works(driver)?;
    let address = driver.pages(1)?;
    let wqe = Wqe::receive(&[sge(address, 2048)]);
    let offset = vport.rx.wq.write(driver, &wqe);
    let wrong = wrong(vport.rx.wq.head);
    driver.ring_wq(doorbell::RQ, vport.rx.wq.id, wrong);
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    vport.rx.wq.ring(driver);
    check_eq("posted buffers", driver.bench.posted_buffers(0), 1)?;
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.take_frame(driver, &frame(60), address, offset)
}

fn ignores_receive_doorbells_that_go_backwards(driver: &mut Driver<'_>) -> Outcome {
    ignores_receive(driver, |head| head - 64)
}

fn ignores_receive_doorbells_that_go_too_far(driver: &mut Driver<'_>) -> Outcome {
    ignores_receive(driver, |head| head + 4096)
}

fn ignores_receive_doorbells_of_part_of_a_unit(driver: &mut Driver<'_>) -> Outcome {
    ignores_receive(driver, |head| head - 31)
}

fn ignores_doorbells_of_no_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for offset in [doorbell::SQ, doorbell::RQ] {
        for id in [0, 99, 0xff_ffff] {
            driver.ring_wq(offset, id, 32);
        }
    }
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    vport.works(driver)
}

fn ignores_doorbells_of_the_other_type(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    // A send queue's id that no receive queue has.
    for _ in 0..5 {
        driver.create_wq(QueueType::Sq, 4096)?;
    }
    let mut vport = driver.open(0)?;
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.write(driver, &wqe);
    driver.ring_wq(doorbell::RQ, vport.tx.wq.id, vport.tx.wq.head);
    check_eq("packets", driver.bench.take_transmitted(0).len(), 0)?;
    vport.tx.wq.ring(driver);
    check_eq("packets", driver.bench.take_transmitted(0).len(), 1)
}

fn a_count_in_the_doorbell_changes_nothing(driver: &mut Driver<'_>) -> Outcome {
    use mana_wire::queue::WqDoorbell;
    let mut vport = driver.start_and_open()?;
    let wqe = packet(driver, &vport)?;
    vport.tx.wq.write(driver, &wqe);
    let bits = WqDoorbell::new()
        .with_id(vport.tx.wq.id)
        .with_wqe_count(255)
        .with_tail(vport.tx.wq.head);
    driver.doorbell(doorbell::SQ, bits.into_bits());
    check_eq("packets", driver.bench.take_transmitted(0).len(), 1)
}

fn counts_what_waits_as_posted(driver: &mut Driver<'_>) -> Outcome {
    use device_kit::platform::TxStatus;
    let mut vport = driver.start_and_open()?;
    let wqe = packet(driver, &vport)?;
    driver.bench.plan_transmits(0, &[TxStatus::Pending; 129]);
    for _ in 0..128 {
        vport.tx.wq.write(driver, &wqe);
    }
    vport.tx.wq.ring(driver);
    check_eq("pending", driver.bench.pending_transmits(0), 128)?;
    // The first is not completed: there is no room for another one.
    vport.tx.wq.post(driver, &wqe);
    check_eq("pending", driver.bench.pending_transmits(0), 128)?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent; 128]);
    vport.tx.wq.ring(driver);
    let sent = driver.bench.take_transmitted(0).len();
    check_eq("packets", sent, 129)
}

fn a_queue_of_no_object_does_nothing(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in [QueueType::Sq, QueueType::Rq] {
        let mut wq = driver.create_wq(queue_type, 4096)?;
        wq.post(driver, &Wqe::receive(&[sge(4096, 60)]));
        check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
        driver.destroy_queue(queue_type, wq.id)?;
    }
    Ok(())
}

fn bad_doorbells_are_counted(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    driver.ring_wq(doorbell::SQ, vport.tx.wq.id, 1);
    driver.ring_wq(doorbell::RQ, 0, 0);
    driver.ring_cq(vport.tx.cq.id, 0, false);
    driver.ring_eq(0, 0, false);
    super::check_inspect(driver, "/faults/bad_doorbells", 4)
}
