//! Creating and destroying queues.

use alloc::vec::Vec;

use mana_wire::gdma::{CreateQueueReq, CreateQueueResp, Status, code};
use mana_wire::queue::QueueType;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::requests::{create_queue, destroy_region, disable_queue};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "queues":
    every_type_is_made_and_ended = "gdma_main.c: mana_gd_create_hw_eq, mana_gd_disable_queue",
    have_ids_that_are_not_zero = "gdma_main.c: mana_gd_create_mana_wq_cq",
    have_ids_of_their_own = "gdma_main.c: mana_gd_create_hw_eq",
    refuse_unknown_types = "gdma.h: enum gdma_queue_type",
    refuse_another_protection_domain = "gdma_main.c: mana_gd_create_hw_eq, pdid",
    refuse_another_doorbell_page = "gdma_main.c: mana_gd_create_hw_eq, doolbell_id",
    refuse_a_vector_beyond_the_table = "gdma_main.c: mana_gd_create_hw_eq, eq_pci_msix_index",
    refuse_a_size_that_is_not_the_regions = "gdma_main.c: mana_gd_create_hw_eq, queue_size",
    refuse_a_size_that_is_no_power_of_two = "gdma_main.c: mana_gd_create_dma_region, is_power_of_2",
    refuse_less_than_a_page = "gdma.h: MANA_MIN_QSIZE",
    refuse_a_region_inside_a_page = "gdma.h: struct gdma_create_dma_region_req, offset_in_page",
    refuse_unknown_regions = "gdma_main.c: mana_gd_create_hw_eq, gdma_region",
    refuse_an_unknown_event_queue = "gdma.h: struct gdma_create_queue_req, cq_parent_eq_id",
    need_room_for_their_id = "gdma.h: struct gdma_create_queue_resp",
    need_their_body = "gdma.h: struct gdma_create_queue_req",
    a_refused_one_keeps_its_region = "gdma_main.c: mana_gd_create_mana_eq",
    ending_needs_its_body = "gdma.h: struct gdma_disable_queue_req",
    ending_needs_a_known_type = "gdma_main.c: mana_gd_disable_queue",
    ending_needs_a_known_queue = "gdma_main.c: mana_gd_disable_queue",
    end_only_once = "gdma_main.c: mana_gd_disable_queue",
    an_event_queue_outlives_its_completion_queues = "gdma_main.c: mana_gd_destroy_eq",
    the_channels_own_cannot_be_ended = "gdma_main.c: mana_gd_disable_queue",
    those_of_objects_cannot_be_ended = "mana_en.c: mana_destroy_wq_obj",
    run_out_and_come_back = "gdma_main.c: mana_gd_query_max_resources",
    fit_into_the_drivers_table = "mana_en.c: mana_create_txq, max_num_cqs",
    give_their_pages_back = "gdma_main.c: mana_gd_disable_queue",
}

const TYPES: [QueueType; 4] = [QueueType::Eq, QueueType::Cq, QueueType::Sq, QueueType::Rq];

fn make(driver: &mut Driver<'_>, queue_type: QueueType) -> Outcome<u32> {
    let memory = driver.queue_memory(4096)?;
    driver.queue(create_queue(queue_type, 0, 4096), &memory)
}

fn every_type_is_made_and_ended(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        let id = make(driver, queue_type)?;
        driver.destroy_queue(queue_type, id)?;
    }
    Ok(())
}

fn have_ids_that_are_not_zero(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        let id = make(driver, queue_type)?;
        check(id != 0, alloc::format!("a {queue_type:?} has id 0"))?;
    }
    Ok(())
}

fn have_ids_of_their_own(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        let mut ids = Vec::new();
        for _ in 0..8 {
            ids.push(make(driver, queue_type)?);
        }
        ids.sort_unstable();
        ids.dedup();
        check_eq(alloc::format!("ids of {queue_type:?}"), ids.len(), 8)?;
    }
    Ok(())
}

/// Sends a corrupted request for a queue of one valid page.
fn spoiled(
    driver: &mut Driver<'_>,
    queue_type: QueueType,
    spoil: impl FnOnce(&mut CreateQueueReq),
    status: Status,
) -> Outcome {
    let pages = driver.page_list(1)?;
    let region = driver.region(&pages)?;
    let good = create_queue(queue_type, region, 4096);
    let mut bad = good;
    spoil(&mut bad);
    let request = |body: &CreateQueueReq| Request::new(code::CREATE_QUEUE, body, 4);
    driver.refuse(&request(&bad), status)?;
    let resp: CreateQueueResp = driver.ask(&request(&good))?;
    driver.destroy_queue(queue_type, resp.queue_index)
}

fn refuse_unknown_types(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for unknown in [0, 5, u32::MAX] {
        let status = Status::InvalidParameter;
        spoiled(driver, QueueType::Eq, |q| q.queue_type = unknown, status)?;
    }
    Ok(())
}

fn refuse_another_protection_domain(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        spoiled(
            driver,
            queue_type,
            |q| q.pdid += 1,
            Status::InvalidParameter,
        )?;
    }
    Ok(())
}

fn refuse_another_doorbell_page(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        let status = Status::InvalidParameter;
        spoiled(driver, queue_type, |q| q.doorbell_id += 1, status)?;
    }
    Ok(())
}

fn refuse_a_vector_beyond_the_table(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for vector in [65, 0xffff, 0x1_0000, u32::MAX] {
        let status = Status::InvalidParameter;
        let spoil = |q: &mut CreateQueueReq| q.eq_pci_msix_index = vector;
        spoiled(driver, QueueType::Eq, spoil, status)?;
    }
    Ok(())
}

fn refuse_a_size_that_is_not_the_regions(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        for size in [0, 2048, 8192, u32::MAX] {
            let status = Status::InvalidParameter;
            spoiled(driver, queue_type, |q| q.queue_size = size, status)?;
        }
    }
    let pages = driver.page_list(2)?;
    let region = driver.region(&pages)?;
    let half = create_queue(QueueType::Eq, region, 4096);
    let request = Request::new(code::CREATE_QUEUE, &half, 4);
    driver.refuse(&request, Status::InvalidParameter)
}

fn refuse_a_size_that_is_no_power_of_two(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for count in [3, 5, 6, 7] {
        let pages = driver.page_list(count)?;
        let region = driver.region(&pages)?;
        let body = create_queue(QueueType::Sq, region, count as u32 * 4096);
        let request = Request::new(code::CREATE_QUEUE, &body, 4);
        driver.refuse(&request, Status::InvalidParameter)?;
    }
    Ok(())
}

/// Returns a region of part of a page.
fn part_of_a_page(driver: &mut Driver<'_>, offset: u32, length: u64) -> Outcome<u64> {
    use crate::driver::requests::create_region;
    use mana_wire::gdma::DmaRegionHandle;
    let count = (u64::from(offset) + length).div_ceil(4096) as usize;
    let pages = driver.page_list(count)?;
    let mut request = create_region(&pages, count);
    request.body[..8].copy_from_slice(&length.to_le_bytes());
    request.body[8..12].copy_from_slice(&offset.to_le_bytes());
    let resp: DmaRegionHandle = driver.ask(&request)?;
    Ok(resp.dma_region_handle)
}

fn refuse_less_than_a_page(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let region = part_of_a_page(driver, 0, 2048)?;
    let body = create_queue(QueueType::Cq, region, 2048);
    let request = Request::new(code::CREATE_QUEUE, &body, 4);
    driver.refuse(&request, Status::InvalidParameter)
}

fn refuse_a_region_inside_a_page(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let region = part_of_a_page(driver, 64, 4096)?;
    let body = create_queue(QueueType::Cq, region, 4096);
    let request = Request::new(code::CREATE_QUEUE, &body, 4);
    driver.refuse(&request, Status::InvalidParameter)
}

fn refuse_unknown_regions(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for unknown in [0, 1, u64::MAX] {
        let status = Status::InvalidHandle;
        spoiled(driver, QueueType::Eq, |q| q.gdma_region = unknown, status)?;
    }
    let pages = driver.page_list(1)?;
    let stale = driver.region(&pages)?;
    driver.succeed(&destroy_region(stale))?;
    let status = Status::InvalidHandle;
    spoiled(driver, QueueType::Eq, |q| q.gdma_region = stale, status)
}

fn refuse_an_unknown_event_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for unknown in [0, 60, 0xfffe, u32::MAX] {
        let status = Status::InvalidParameter;
        let spoil = |q: &mut CreateQueueReq| q.cq_parent_eq_id = unknown;
        spoiled(driver, QueueType::Cq, spoil, status)?;
    }
    Ok(())
}

fn need_room_for_their_id(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let pages = driver.page_list(1)?;
    let region = driver.region(&pages)?;
    let body = create_queue(QueueType::Eq, region, 4096);
    let request = Request::new(code::CREATE_QUEUE, &body, 3);
    driver.refuse(&request, Status::ResponseTooSmall)?;
    driver.succeed(&destroy_region(region)).map(|_| ())
}

fn need_their_body(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let pages = driver.page_list(1)?;
    let region = driver.region(&pages)?;
    let body = create_queue(QueueType::Eq, region, 4096);
    let mut request = Request::new(code::CREATE_QUEUE, &body, 4);
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}

fn a_refused_one_keeps_its_region(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let pages = driver.page_list(1)?;
    let region = driver.region(&pages)?;
    let mut body = create_queue(QueueType::Eq, region, 4096);
    body.eq_pci_msix_index = 0xffff;
    let request = Request::new(code::CREATE_QUEUE, &body, 4);
    driver.refuse(&request, Status::InvalidParameter)?;
    driver.succeed(&destroy_region(region)).map(|_| ())
}

fn ending_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let id = make(driver, QueueType::Eq)?;
    let mut request = disable_queue(QueueType::Eq, id);
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}

fn ending_needs_a_known_type(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let id = make(driver, QueueType::Eq)?;
    let mut request = disable_queue(QueueType::Eq, id);
    request.body[..4].copy_from_slice(&9u32.to_le_bytes());
    driver.refuse(&request, Status::InvalidParameter)
}

fn ending_needs_a_known_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        for id in [0, 99, 0xff_ffff, u32::MAX] {
            let request = disable_queue(queue_type, id);
            driver.refuse(&request, Status::InvalidHandle)?;
        }
    }
    Ok(())
}

fn end_only_once(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        let id = make(driver, queue_type)?;
        driver.destroy_queue(queue_type, id)?;
        let request = disable_queue(queue_type, id);
        driver.refuse(&request, Status::InvalidHandle)?;
    }
    Ok(())
}

fn an_event_queue_outlives_its_completion_queues(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let eq = driver.create_eq(1, 4096)?;
    let cq = driver.create_cq(Some(&eq), 4096)?;
    driver.refuse(&disable_queue(QueueType::Eq, eq.id), Status::Busy)?;
    driver.destroy_queue(QueueType::Cq, cq.id)?;
    driver.destroy_queue(QueueType::Eq, eq.id)
}

fn the_channels_own_cannot_be_ended(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let hwc = driver.with_hwc(|hwc, _| Ok(hwc.announced))?;
    let own = [
        (QueueType::Eq, hwc.eq),
        (QueueType::Cq, hwc.cq),
        (QueueType::Sq, hwc.sq),
        (QueueType::Rq, hwc.rq),
    ];
    for (queue_type, id) in own {
        driver.refuse(&disable_queue(queue_type, id), Status::Busy)?;
    }
    Ok(())
}

fn those_of_objects_cannot_be_ended(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let own = [
        (QueueType::Eq, vport.eq.id),
        (QueueType::Sq, vport.tx.wq.id),
        (QueueType::Cq, vport.tx.cq.id),
        (QueueType::Rq, vport.rx.wq.id),
        (QueueType::Cq, vport.rx.cq.id),
    ];
    for (queue_type, id) in own {
        driver.refuse(&disable_queue(queue_type, id), Status::Busy)?;
    }
    vport.works(driver)
}

fn run_out_and_come_back(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut ids = Vec::new();
    let page = driver.page_list(1)?;
    let last = loop {
        let region = driver.region(&page)?;
        let body = create_queue(QueueType::Eq, region, 4096);
        let response = driver.call(&Request::new(code::CREATE_QUEUE, &body, 4))?;
        if response.header.status != 0 || ids.len() > 100_000 {
            break response;
        }
        ids.push(response.parse::<CreateQueueResp>()?.queue_index);
    };
    last.expect(Status::NoResources)?;
    for id in ids {
        driver.destroy_queue(QueueType::Eq, id)?;
    }
    make(driver, QueueType::Eq).map(|_| ())
}

fn fit_into_the_drivers_table(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let places = driver.with_hwc(|hwc, _| Ok(hwc.announced.max_cqs))?;
    let page = driver.page_list(1)?;
    loop {
        let region = driver.region(&page)?;
        let body = create_queue(QueueType::Cq, region, 4096);
        let response = driver.call(&Request::new(code::CREATE_QUEUE, &body, 4))?;
        if response.header.status != 0 {
            return response.expect(Status::NoResources).map(|_| ());
        }
        let id = response.parse::<CreateQueueResp>()?.queue_index;
        let text = alloc::format!("completion queue {id}, and a table of {places}");
        check(id < places, text)?;
    }
}

fn give_their_pages_back(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for queue_type in TYPES {
        let id = make(driver, queue_type)?;
        super::check_inspect(driver, "/dma_regions/pages_in_use", 1)?;
        driver.destroy_queue(queue_type, id)?;
        super::check_inspect(driver, "/dma_regions/pages_in_use", 0)?;
    }
    Ok(())
}
