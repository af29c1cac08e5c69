//! Several queue pairs of a vport.

use alloc::vec::Vec;

use device_kit::platform::{RxFlags, TxStatus};
use mana_wire::bnic::{CreateWqObjResp, Stats, code};
use mana_wire::gdma::Status;
use mana_wire::oob::CqeType;
use mana_wire::queue::QueueType;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::{frame, numbered_frame};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "pairs":
    a_vport_has_as_many_as_its_port = "mana_en.c: mana_query_vport_cfg, max_num_sq, max_num_rq",
    there_are_resources_for_all = "gdma_main.c: mana_gd_query_max_resources",
    one_beyond_the_last_is_refused = "mana_en.c: mana_create_wq_obj",
    each_sends_and_receives = "mana_en.c: mana_create_txq, mana_add_rx_queues",
    each_has_its_vector = "mana_en.c: mana_create_eq, msix_index",
    may_share_an_event_queue = "mana_en.c: mana_create_eq (of all vports)",
    are_fenced_one_by_one = "mana_en.c: mana_fence_rqs",
    are_counted_together = "mana_en.c: mana_query_gf_stats",
    one_goes_while_the_others_carry_packets = "mana_en.c: mana_destroy_rxq, mana_destroy_txq",
    what_a_queue_had_goes_with_it = "hostile guest: a queue destroyed while packets are under way",
    all_give_their_buffers_back_while_the_vport_receives_nothing = "mana_en.c: mana_config_rss (TRI_STATE_FALSE)",
    the_next_one_has_a_free_number = "mana_en.c: mana_attach",
    all_come_and_go = "mana_en.c: mana_set_channels (detach and attach)",
    fewer_and_more_by_turns = "mana_en.c: mana_set_channels",
    a_reset_takes_all_down = "mana_en.c: mana_dealloc_queues, pcie_flr",
    many_packets_of_many_queues_wait_their_turn = "mana_en.c: mana_start_xmit on every processor",
}

/// Returns a started device with some of the queue pairs of port 0.
fn few(driver: &mut Driver<'_>) -> Outcome<Vec<Vport>> {
    driver.start()?;
    driver.open_pairs(0, 8, Sizes::SMALL)
}

/// Selects a queue on the bench.
fn on<'a>(driver: &mut Driver<'_>, pairs: &'a mut [Vport], number: usize) -> &'a mut Vport {
    driver.bench.on_queue(number as u32);
    &mut pairs[number]
}

/// Checks that packets go both ways through a queue.
fn works(driver: &mut Driver<'_>, pairs: &mut [Vport], number: usize) -> Outcome {
    on(driver, pairs, number).works(driver)
}

fn a_vport_has_as_many_as_its_port(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for port in 0..super::PORTS {
        let found = driver.query_vport(port)?;
        let queues = u32::from(crate::bench::QUEUES);
        check_eq("send queues", found.max_num_sq, queues)?;
        check_eq("receive queues", found.max_num_rq, queues)?;
    }
    Ok(())
}

fn there_are_resources_for_all(driver: &mut Driver<'_>) -> Outcome {
    use mana_wire::gdma::MaxResourcesResp;
    driver.start()?;
    let size = size_of::<MaxResourcesResp>();
    let request = Request::of_bytes(mana_wire::gdma::code::QUERY_MAX_RESOURCES, &[], size);
    let found: MaxResourcesResp = driver.ask(&request)?;
    let queues = u32::from(crate::bench::QUEUES);
    let all = queues * super::PORTS;
    check(found.max_sq >= all, "fewer send queues than ports have")?;
    check(found.max_rq >= all, "fewer receive queues than ports have")?;
    check(
        found.max_cq >= 2 * all,
        "fewer completion queues than ports need",
    )?;
    check(found.max_eq >= all, "fewer event queues than queue pairs")?;
    check(found.max_msix > queues, "no vector for each queue pair")
}

fn one_beyond_the_last_is_refused(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = driver.start_and_open_pairs()?;
    let handle = pairs[0].handle;
    for queue_type in [QueueType::Sq, QueueType::Rq] {
        let (body, ..) = driver.prepare_object(handle, queue_type, None, Sizes::SMALL)?;
        let size = size_of::<CreateWqObjResp>();
        let request = Request::new(code::CREATE_WQ_OBJ, &body, size);
        driver.refuse(&request, Status::NoResources)?;
    }
    let last = pairs.len() - 1;
    works(driver, &mut pairs, last)
}

fn each_sends_and_receives(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = driver.start_and_open_pairs()?;
    for number in 0..pairs.len() {
        works(driver, &mut pairs, number)?;
    }
    Ok(())
}

fn each_has_its_vector(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = few(driver)?;
    driver.take_all_interrupts();
    for number in [0, 1, 5, pairs.len() - 1] {
        on(driver, &mut pairs, number).send(driver, &frame(60))?;
        let raised = driver.take_all_interrupts();
        check_eq("vectors", raised, [number as u16 + 1].into())?;
    }
    Ok(())
}

fn may_share_an_event_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut first = driver.open(0)?;
    let second =
        driver.create_object(first.handle, QueueType::Sq, Some(first.eq.id), Sizes::SMALL)?;
    second.cq.ring(driver, true);
    first.eq.drain(driver)?;
    first.eq.ring(driver, true);
    let address = driver.place(&frame(60))?;
    let mut other = Vport {
        tx: second,
        ..first.clone()
    };
    first
        .tx
        .wq
        .write(driver, &first.packet(&[sge(address, 60)]));
    first.tx.wq.ring(driver);
    other
        .tx
        .wq
        .write(driver, &other.packet(&[sge(address, 60)]));
    other.tx.wq.ring(driver);
    let events = first.eq.drain(driver)?;
    check_eq("events", events.len(), 2)?;
    first.tx.cq.expect(driver)?;
    other.tx.cq.expect(driver).map(|_| ())
}

fn are_fenced_one_by_one(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = few(driver)?;
    for number in [3, 0, pairs.len() - 1] {
        driver
            .fence(pairs[number].rx.handle)?
            .expect(Status::Success)?;
        let completion = pairs[number].rx.cq.expect(driver)?;
        completion.check_type(CqeType::RxObjectFence as u8)?;
        for pair in &mut pairs {
            pair.rx.cq.expect_none(driver)?;
        }
    }
    Ok(())
}

fn are_counted_together(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = few(driver)?;
    for number in [0, 1, pairs.len() - 1] {
        let pair = on(driver, &mut pairs, number);
        pair.send(driver, &frame(100))?;
        pair.receive(driver, &frame(200))?;
    }
    let expected = Stats {
        rx_bytes: 600,
        rx_ucast_pkts: 3,
        rx_ucast_bytes: 600,
        tx_bytes: 300,
        tx_ucast_pkts: 3,
        tx_ucast_bytes: 300,
        ..Stats::default()
    };
    check_eq("statistics", driver.stats()?, expected)
}

fn all_give_their_buffers_back_while_the_vport_receives_nothing(
    driver: &mut Driver<'_>,
) -> Outcome {
    const USED: [usize; 3] = [0, 3, 7];
    let mut pairs = few(driver)?;
    for number in USED {
        on(driver, &mut pairs, number).post_buffer(driver, 2048)?;
    }
    driver.disable_rx(pairs[0].handle)?;
    for number in USED {
        on(driver, &mut pairs, number);
        check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    }
    driver.enable_rx(pairs[0].handle, pairs[0].rx.handle)?;
    for number in USED {
        on(driver, &mut pairs, number);
        check_eq("posted buffers", driver.bench.posted_buffers(0), 1)?;
    }
    Ok(())
}

fn one_goes_while_the_others_carry_packets(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = few(driver)?;
    for number in [0, 2] {
        on(driver, &mut pairs, number).post_buffer(driver, 2048)?;
    }
    driver.destroy_object(&pairs[1].rx)?;
    driver.destroy_object(&pairs[1].tx)?;
    for number in [0, 2] {
        let pair = on(driver, &mut pairs, number);
        check_eq("posted buffers", driver.bench.posted_buffers(0), 1)?;
        pair.arrive(driver, &frame(60), RxFlags::empty())?;
        pair.rx
            .cq
            .expect(driver)?
            .check_type(CqeType::RxOkay as u8)?;
        pair.rx.cq.ring(driver, true);
        pair.works(driver)?;
    }
    Ok(())
}

fn what_a_queue_had_goes_with_it(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = few(driver)?;
    let address = driver.place(&frame(60))?;
    for number in [4, 5] {
        let pair = on(driver, &mut pairs, number);
        let waits = [TxStatus::Pending; 3];
        driver.bench.plan_transmits(0, &waits);
        for _ in waits {
            let packet = pair.packet(&[sge(address, 60)]);
            pair.tx.wq.post(driver, &packet);
            pair.post_buffer(driver, 2048)?;
        }
    }
    driver.destroy_object(&pairs[4].tx)?;
    driver.destroy_object(&pairs[4].rx)?;
    let gone = on(driver, &mut pairs, 4);
    check_eq("pending", driver.bench.pending_transmits(0), 0)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    gone.tx.cq.expect_none(driver)?;
    gone.rx.cq.expect_none(driver)?;
    let other = on(driver, &mut pairs, 5);
    check_eq("pending", driver.bench.pending_transmits(0), 3)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 3)?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent; 3]);
    check_eq("completions", other.tx.cq.drain(driver)?.len(), 3)
}

fn the_next_one_has_a_free_number(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = few(driver)?;
    for number in [7, 2] {
        driver.destroy_object(&pairs[number].tx)?;
        let (handle, eq) = (pairs[number].handle, Some(pairs[number].eq.id));
        let tx = driver.create_object(handle, QueueType::Sq, eq, Sizes::SMALL)?;
        tx.cq.ring(driver, true);
        pairs[number].tx = tx;
        on(driver, &mut pairs, number).send(driver, &frame(60))?;
    }
    Ok(())
}

fn all_come_and_go(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let count = driver.query_vport(0)?.max_num_rq as u16;
    for _ in 0..2 {
        let mut pairs = driver.open_pairs(0, count, Sizes::SMALL)?;
        for number in [0, pairs.len() - 1] {
            works(driver, &mut pairs, number)?;
        }
        driver.close_pairs(&pairs)?;
    }
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn fewer_and_more_by_turns(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for count in [1, 4, 2, 8] {
        let mut pairs = driver.open_pairs(0, count, Sizes::SMALL)?;
        for number in 0..pairs.len() {
            works(driver, &mut pairs, number)?;
        }
        driver.close_pairs(&pairs)?;
    }
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn a_reset_takes_all_down(driver: &mut Driver<'_>) -> Outcome {
    let mut pairs = driver.start_and_open_pairs()?;
    for number in 0..pairs.len() {
        on(driver, &mut pairs, number).post_buffer(driver, 2048)?;
    }
    driver.bench.reset();
    for number in 0..pairs.len() {
        on(driver, &mut pairs, number);
        check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    }
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)?;
    driver.hwc = None;
    let mut pairs = driver.start_and_open_pairs()?;
    works(driver, &mut pairs, 1)
}

/// Posts as many packets as a call works on to each of several queues, with one
/// doorbell each.
fn many_packets_of_many_queues_wait_their_turn(driver: &mut Driver<'_>) -> Outcome {
    const PACKETS: usize = 512;
    const QUEUES: u16 = 4;
    driver.start()?;
    let mut pairs = driver.open_pairs(0, QUEUES, Sizes::LARGE)?;
    let addresses: Outcome<Vec<u64>> = (0..QUEUES as u8)
        .map(|number| driver.place(&numbered_frame(60, number)))
        .collect();
    for (pair, address) in pairs.iter_mut().zip(addresses?) {
        let packet = pair.packet(&[sge(address, 60)]);
        for _ in 0..PACKETS / 2 {
            pair.tx.wq.write(driver, &packet);
            let pieces = [sge(address, 30), sge(address + 30, 30)];
            let other = Wqe::new(&packet.oob, &pieces);
            pair.tx.wq.write(driver, &other);
        }
        pair.tx.wq.ring(driver);
    }
    for number in 0..pairs.len() {
        let pair = on(driver, &mut pairs, number);
        let sent = driver.bench.take_transmitted(0);
        check_eq("packets at the port", sent.len(), PACKETS)?;
        let is_own = |frame: &[u8]| frame[14] == number as u8;
        let all_own = sent.iter().all(|sent| is_own(&sent.frame));
        check(all_own, "a packet of another queue")?;
        let done = pair.tx.cq.drain(driver)?.len();
        check_eq("completions", done, PACKETS)?;
    }
    Ok(())
}
