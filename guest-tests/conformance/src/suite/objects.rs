//! Work queue objects.

use mana_wire::bnic::{CreateWqObjReq, CreateWqObjResp, NO_EQ, code};
use mana_wire::gdma::Status;
use mana_wire::queue::QueueType;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::nic::{Sizes, destroy_object};
use crate::driver::requests::destroy_region;
use crate::failure::{Outcome, check, check_eq};

super::declare! { "objects":
    are_created_and_destroyed = "mana_en.c: mana_create_wq_obj, mana_destroy_wq_obj",
    have_handles_and_ids_of_their_own = "mana_en.c: mana_create_wq_obj",
    work_after_they_were_made_again = "mana_en.c: mana_detach, mana_attach",
    take_their_regions = "mana_en.c: mana_create_txq, GDMA_INVALID_DMA_REGION",
    report_to_no_event_queue_if_told_so = "mana.h: GDMA_CQ_NO_EQ",
    need_a_vport = "mana_en.c: mana_create_wq_obj, vport",
    are_send_or_receive_queues = "mana_en.c: mana_create_wq_obj, wq_type",
    a_vport_has_a_limit_of_them = "mana_en.c: mana_query_vport_cfg, max_num_sq",
    need_two_regions = "mana_en.c: mana_create_wq_obj, wq_gdma_region",
    need_regions_that_exist = "mana_en.c: mana_create_wq_obj, wq_gdma_region",
    need_regions_of_their_size = "mana_en.c: mana_create_wq_obj, wq_size",
    need_an_event_queue_that_exists = "mana_en.c: mana_create_wq_obj, cq_parent_qid",
    need_room_for_their_handle = "mana_en.c: mana_create_wq_obj",
    need_their_body = "mana_en.c: mana_create_wq_obj",
    a_refused_one_keeps_its_regions = "reference: MANA_CREATE_WQ_OBJ leaks a work queue",
    a_stale_handle_is_none = "reference: MANA_DESTROY_WQ_OBJ by port number",
    are_not_destroyed_by_another_kind_of_handle = "mana_en.c: mana_destroy_wq_obj",
    are_not_destroyed_as_another_type = "mana_en.c: mana_destroy_wq_obj, wq_type",
    destroying_needs_its_body = "mana_en.c: mana_destroy_wq_obj",
    one_that_receives_may_go = "mana_en.c: mana_destroy_rxq (frees the memory in any case); mana_ib: commit dbeb256e8dd8",
    destroying_takes_buffers_back = "mana_en.c: mana_destroy_rxq",
    destroying_gives_up_pending_transmits = "mana_en.c: mana_destroy_txq",
    one_may_go_while_the_other_works = "mana_en.c: mana_dealloc_queues",
    keep_their_event_queue_busy = "mana_en.c: mana_destroy_eq",
}

fn request(body: &CreateWqObjReq) -> Request {
    Request::new(code::CREATE_WQ_OBJ, body, size_of::<CreateWqObjResp>())
}

fn are_created_and_destroyed(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    for queue_type in [QueueType::Sq, QueueType::Rq] {
        let object = driver.create_object(vport, queue_type, None, Sizes::SMALL)?;
        driver.destroy_object(&object)?;
    }
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn have_handles_and_ids_of_their_own(driver: &mut Driver<'_>) -> Outcome {
    let vports = driver.start_and_open_all(2)?;
    let objects = || vports.iter().flat_map(|v| [&v.tx, &v.rx]);
    for (index, one) in objects().enumerate() {
        for other in objects().skip(index + 1) {
            check(one.handle != other.handle, "two objects have one handle")?;
            check(
                one.cq.id != other.cq.id,
                "two completion queues have one id",
            )?;
            let same = one.queue_type == other.queue_type && one.wq.id == other.wq.id;
            check(!same, "two work queues have one id")?;
        }
        check(one.handle != u64::MAX, "INVALID_MANA_HANDLE")?;
    }
    Ok(())
}

fn work_after_they_were_made_again(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for _ in 0..5 {
        let mut vport = driver.open(0)?;
        vport.works(driver)?;
        driver.close(&vport)?;
    }
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn take_their_regions(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let (body, ..) = driver.prepare_object(vport, QueueType::Sq, None, Sizes::SMALL)?;
    driver.succeed(&request(&body))?;
    for region in [body.wq_gdma_region, body.cq_gdma_region] {
        driver.refuse(&destroy_region(region), Status::InvalidHandle)?;
    }
    Ok(())
}

fn report_to_no_event_queue_if_told_so(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let mut object = driver.create_object(vport, QueueType::Rq, None, Sizes::SMALL)?;
    object.cq.ring(driver, true);
    driver.enable_rx(vport, object.handle)?;
    driver.fence(object.handle)?.expect(Status::Success)?;
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    object.cq.expect(driver).map(|_| ())
}

/// Sends a corrupted request, which must fail; then the valid one must succeed.
fn spoiled(
    driver: &mut Driver<'_>,
    spoil: impl FnOnce(&mut CreateWqObjReq),
    status: Status,
) -> Outcome {
    let vport = driver.query_vport(0)?.vport;
    let (good, ..) = driver.prepare_object(vport, QueueType::Sq, None, Sizes::SMALL)?;
    let mut bad = good;
    spoil(&mut bad);
    driver.refuse(&request(&bad), status)?;
    let made: CreateWqObjResp = driver.ask(&request(&good))?;
    driver.succeed(&destroy_object(QueueType::Sq, made.wq_obj))?;
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn need_a_vport(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for handle in [0, 1, u64::MAX] {
        spoiled(driver, |body| body.vport = handle, Status::InvalidHandle)?;
    }
    Ok(())
}

fn are_send_or_receive_queues(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for other in [0, 3, 4, 5, u32::MAX] {
        let status = Status::InvalidParameter;
        spoiled(driver, |body| body.wq_type = other, status)?;
    }
    Ok(())
}

fn a_vport_has_a_limit_of_them(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let found = driver.query_vport(0)?;
    for (queue_type, most) in [
        (QueueType::Sq, found.max_num_sq),
        (QueueType::Rq, found.max_num_rq),
    ] {
        for _ in 0..most {
            driver.create_object(found.vport, queue_type, None, Sizes::SMALL)?;
        }
        let (body, ..) = driver.prepare_object(found.vport, queue_type, None, Sizes::SMALL)?;
        driver.refuse(&request(&body), Status::NoResources)?;
    }
    Ok(())
}

fn need_two_regions(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let same = |body: &mut CreateWqObjReq| body.cq_gdma_region = body.wq_gdma_region;
    let vport = driver.query_vport(0)?.vport;
    let (mut body, ..) = driver.prepare_object(vport, QueueType::Sq, None, Sizes::SMALL)?;
    same(&mut body);
    driver.refuse(&request(&body), Status::InvalidParameter)
}

fn need_regions_that_exist(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let status = Status::InvalidHandle;
    spoiled(driver, |body| body.wq_gdma_region = 0, status)?;
    spoiled(driver, |body| body.cq_gdma_region = 0, status)?;
    spoiled(driver, |body| body.cq_gdma_region ^= 1 << 40, status)
}

fn need_regions_of_their_size(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let status = Status::InvalidParameter;
    spoiled(driver, |body| body.wq_size = 8192, status)?;
    spoiled(driver, |body| body.cq_size = 8192, status)?;
    spoiled(driver, |body| body.cq_size = 0, status)
}

fn need_an_event_queue_that_exists(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for id in [0, 60, u32::MAX] {
        let status = Status::InvalidParameter;
        spoiled(driver, |body| body.cq_parent_qid = id, status)?;
    }
    Ok(())
}

fn need_room_for_their_handle(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let (body, ..) = driver.prepare_object(vport, QueueType::Sq, None, Sizes::SMALL)?;
    let mut small = request(&body);
    small.header.resp.msg_size -= 1;
    driver.refuse(&small, Status::ResponseTooSmall)?;
    driver.succeed(&request(&body)).map(|_| ())
}

fn need_their_body(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let (body, ..) = driver.prepare_object(vport, QueueType::Sq, None, Sizes::SMALL)?;
    let mut short = request(&body);
    short.body.pop();
    driver.refuse(&short, Status::TooShort)
}

fn a_refused_one_keeps_its_regions(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let (mut body, ..) = driver.prepare_object(vport, QueueType::Sq, None, Sizes::SMALL)?;
    body.cq_size = 12345;
    driver.refuse(&request(&body), Status::InvalidParameter)?;
    driver.succeed(&destroy_region(body.wq_gdma_region))?;
    driver.succeed(&destroy_region(body.cq_gdma_region))?;
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn a_stale_handle_is_none(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let old = driver.open(0)?;
    driver.close(&old)?;
    let mut new = driver.open(0)?;
    for (queue_type, handle) in [
        (QueueType::Sq, old.tx.handle),
        (QueueType::Rq, old.rx.handle),
    ] {
        let request = destroy_object(queue_type, handle);
        driver.refuse(&request, Status::InvalidHandle)?;
    }
    new.works(driver)
}

fn are_not_destroyed_by_another_kind_of_handle(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let pages = driver.page_list(1)?;
    let region = driver.region(&pages)?;
    let port = u64::from(vport.port);
    for handle in [vport.handle, region, port, 0, u64::MAX, vport.tx.handle + 2] {
        let request = destroy_object(QueueType::Sq, handle);
        driver.refuse(&request, Status::InvalidHandle)?;
    }
    vport.works(driver)
}

fn are_not_destroyed_as_another_type(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for (queue_type, handle) in [
        (QueueType::Rq, vport.tx.handle),
        (QueueType::Sq, vport.rx.handle),
        (QueueType::Cq, vport.tx.handle),
    ] {
        let request = destroy_object(queue_type, handle);
        driver.refuse(&request, Status::InvalidParameter)?;
    }
    vport.works(driver)
}

fn destroying_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    let mut request = destroy_object(QueueType::Sq, vport.tx.handle);
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}

/// Destroys a queue that packets are steered to: nothing is written to its memory
/// afterwards, and a later queue receives once the driver steers to it.
fn one_that_receives_may_go(driver: &mut Driver<'_>) -> Outcome {
    use crate::driver::wqe::{Wqe, sge};
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    driver.destroy_object(&vport.rx)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    vport.rx.cq.expect_none(driver)?;
    let eq = Some(vport.eq.id);
    vport.rx = driver.create_object(vport.handle, QueueType::Rq, eq, Sizes::SMALL)?;
    let address = driver.pages(1)?;
    let buffer = Wqe::receive(&[sge(address, 2048)]);
    vport.rx.wq.post(driver, &buffer);
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    driver.enable_rx(vport.handle, vport.rx.handle)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 1)
}

fn destroying_takes_buffers_back(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for _ in 0..3 {
        vport.post_buffer(driver, 2048)?;
    }
    check_eq("posted buffers", driver.bench.posted_buffers(0), 3)?;
    driver.disable_rx(vport.handle)?;
    driver.destroy_object(&vport.rx)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)
}

fn destroying_gives_up_pending_transmits(driver: &mut Driver<'_>) -> Outcome {
    use crate::driver::wqe::sge;
    use device_kit::platform::TxStatus;
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&[0; 60])?;
    driver
        .bench
        .plan_transmits(0, &[TxStatus::Pending, TxStatus::Pending]);
    for _ in 0..2 {
        let wqe = vport.packet(&[sge(address, 60)]);
        vport.tx.wq.post(driver, &wqe);
    }
    check_eq("pending", driver.bench.pending_transmits(0), 2)?;
    driver.destroy_object(&vport.tx)?;
    check_eq("pending", driver.bench.pending_transmits(0), 0)?;
    vport.tx.cq.expect_none(driver)
}

fn one_may_go_while_the_other_works(driver: &mut Driver<'_>) -> Outcome {
    use crate::driver::traffic::frame;
    let mut vport = driver.start_and_open()?;
    driver.destroy_object(&vport.tx)?;
    vport.receive(driver, &frame(60))?;
    let eq = Some(vport.eq.id);
    vport.tx = driver.create_object(vport.handle, QueueType::Sq, eq, Sizes::SMALL)?;
    vport.works(driver)
}

fn keep_their_event_queue_busy(driver: &mut Driver<'_>) -> Outcome {
    use crate::driver::requests::disable_queue;
    let vport = driver.start_and_open()?;
    let request = disable_queue(QueueType::Eq, vport.eq.id);
    driver.refuse(&request, Status::Busy)?;
    driver.disable_rx(vport.handle)?;
    driver.destroy_object(&vport.rx)?;
    driver.refuse(&request, Status::Busy)?;
    driver.destroy_object(&vport.tx)?;
    driver.succeed(&request).map(|_| ())?;
    check(NO_EQ != vport.eq.id, "an event queue is named as none")
}
