//! Several vports, isolated from one another.

use device_kit::platform::{RxFlags, TxStatus};
use mana_wire::oob::CqeType;
use mana_wire::queue::QueueType;

use crate::driver::Driver;
use crate::driver::traffic::{frame, numbered_frame};
use crate::driver::wqe::sge;
use crate::failure::{Outcome, check_eq};

super::declare! { "vports":
    all_work_at_once(8) = "mana_en.c: mana_probe_port",
    there_may_be_256(256) = "mana.h: MAX_PORTS_IN_MANA_DEV",
    each_of_256_may_have_its_event_queue(256) = "mana_en.c: mana_create_eq",
    packets_leave_by_their_own_port = "mana_en.c: mana_start_xmit",
    frames_arrive_at_their_own_vport = "mana_en.c: mana_process_rx_cqe",
    interrupts_are_their_own = "mana_en.c: mana_create_eq",
    may_share_an_event_queue = "mana_en.c: mana_create_eq",
    one_may_close_while_others_work = "mana_en.c: mana_detach",
    one_may_fail_while_others_work = "mana_en.c: mana_poll_tx_cq",
    one_may_wait_while_others_work = "mana_en.c: mana_poll_tx_cq",
    one_cannot_use_anothers_completion_queue = "mana.h: CQE_TX_INVALID_OOB, vcq_num",
    one_may_be_silent_while_others_receive = "mana_en.c: mana_cfg_vport_steering",
    ids_are_not_shared = "mana_en.c: mana_create_wq_obj",
}

fn all_work_at_once(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(8)?;
    for _ in 0..3 {
        for vport in &mut vports {
            vport.works(driver)?;
        }
    }
    Ok(())
}

fn there_may_be_256(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let last = driver.query_vport(255)?;
    check_eq("MAC address", last.mac_addr, [2, 0, 0, 0, 0, 255])?;
    let eq = driver.create_eq(1, 4096)?;
    for port in 0..256 {
        let handle = driver.query_vport(port)?.vport;
        driver.configure_tx(handle)?;
        let sizes = crate::driver::nic::Sizes::SMALL;
        for queue_type in [QueueType::Sq, QueueType::Rq] {
            driver.create_object(handle, queue_type, Some(eq.id), sizes)?;
        }
    }
    Ok(())
}

fn each_of_256_may_have_its_event_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for port in 0..256 {
        let handle = driver.query_vport(port)?.vport;
        let eq = driver.create_eq(1, 4096)?;
        let sizes = crate::driver::nic::Sizes::SMALL;
        driver.create_object(handle, QueueType::Rq, Some(eq.id), sizes)?;
    }
    Ok(())
}

fn packets_leave_by_their_own_port(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    for number in [0, 1, 1, 0, 1] {
        vports[number].send(driver, &frame(60 + number))?;
        let other = driver.bench.take_transmitted(1 - number as u32);
        check_eq("packets at the other port", other.len(), 0)?;
    }
    Ok(())
}

fn frames_arrive_at_their_own_vport(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    for number in [1, 0, 0, 1] {
        vports[number].receive(driver, &numbered_frame(60, number as u8))?;
        vports[1 - number].rx.cq.expect_none(driver)?;
    }
    Ok(())
}

fn interrupts_are_their_own(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    vports[1].send(driver, &frame(60))?;
    driver.expect_interrupts(vports[1].eq.vector, 1)?;
    driver.expect_interrupts(vports[0].eq.vector, 0)?;
    let events = vports[0].eq.drain(driver)?;
    check_eq("events of the other", events.len(), 0)
}

fn may_share_an_event_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(1, 4096)?;
    let mut queues = alloc::vec::Vec::new();
    for port in 0..2 {
        let handle = driver.query_vport(port)?.vport;
        let sizes = crate::driver::nic::Sizes::SMALL;
        let rx = driver.create_object(handle, QueueType::Rq, Some(eq.id), sizes)?;
        driver.enable_rx(handle, rx.handle)?;
        driver.fence(rx.handle)?;
        queues.push(rx.cq.id);
    }
    let events = eq.drain(driver)?;
    let found: alloc::vec::Vec<u32> = events.iter().map(|e| e.details[0]).collect();
    check_eq("completion queues with events", found, queues)
}

fn one_may_close_while_others_work(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    vports[1].post_buffer(driver, 256)?;
    driver.close(&vports[0])?;
    check_eq("posted buffers", driver.bench.posted_buffers(1), 1)?;
    vports[1].arrive(driver, &frame(60), RxFlags::empty())?;
    let completion = vports[1].rx.cq.expect(driver)?;
    completion.check_type(CqeType::RxOkay as u8)?;
    vports[1].works(driver)?;
    driver.open(0)?.works(driver)
}

fn one_may_fail_while_others_work(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    for _ in 0..20 {
        let bad = vports[0].packet(&[]);
        vports[0].fail(driver, &bad, CqeType::TxGdmaError)?;
        vports[1].works(driver)?;
    }
    Ok(())
}

fn one_may_wait_while_others_work(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    driver.bench.plan_transmits(0, &[TxStatus::Pending]);
    let address = driver.place(&frame(60))?;
    let wqe = vports[0].packet(&[sge(address, 60)]);
    vports[0].tx.wq.post(driver, &wqe);
    vports[1].works(driver)?;
    vports[0].tx.cq.expect_none(driver)?;
    driver.bench.finish_transmit(0, &[TxStatus::Sent]);
    let completion = vports[0].tx.cq.expect(driver)?;
    completion.check_type(CqeType::TxOkay as u8)
}

fn one_cannot_use_anothers_completion_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    let address = driver.place(&frame(60))?;
    let oob = vports[0].oob().with_vcq_num(vports[1].tx.cq.id);
    let oob = crate::driver::traffic::short(oob);
    let wqe = crate::driver::wqe::Wqe::new(&oob, &[sge(address, 60)]);
    vports[0].fail(driver, &wqe, CqeType::TxInvalidOob)?;
    vports[1].tx.cq.expect_none(driver)
}

fn one_may_be_silent_while_others_receive(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    driver.disable_rx(vports[0].handle)?;
    vports[1].works(driver)?;
    vports[0].post_buffer(driver, 256)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)
}

fn ids_are_not_shared(driver: &mut Driver<'_>) -> Outcome {
    let vports = driver.start_and_open_all(2)?;
    let cqs = vports.iter().flat_map(|v| [v.tx.cq.id, v.rx.cq.id]);
    let mut cqs: alloc::vec::Vec<u32> = cqs.collect();
    cqs.sort_unstable();
    cqs.dedup();
    check_eq("completion queues", cqs.len(), 4)
}
