//! Requests of the device as a whole: version, resources, registration.

use mana_wire::gdma::{
    DEV_HWC, DEV_MANA, DevId, GenerateResetEqeReq, ListDevicesResp, MaxResourcesResp, Status,
    VerifyVersionReq, code,
};
use mana_wire::queue::{QueueType, eqe};

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::requests::{create_queue, verify_version};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "admin":
    agrees_on_version_1 = "gdma_main.c: mana_gd_verify_vf_version",
    agrees_on_a_range_of_versions = "gdma_main.c: mana_gd_verify_vf_version",
    refuses_versions_it_does_not_speak = "gdma_main.c: mana_gd_verify_vf_version",
    version_request_needs_its_body = "gdma.h: struct gdma_verify_ver_req",
    version_response_needs_its_body = "gdma.h: struct gdma_verify_ver_resp",
    version_strings_may_hold_anything = "gdma.h: struct gdma_verify_ver_req, os_ver_str1",
    a_longer_version_request_is_accepted = "gdma.h: struct gdma_verify_ver_req",
    tells_what_there_is = "gdma_main.c: mana_gd_query_max_resources",
    resources_leave_room_for_the_channel = "gdma_main.c: mana_gd_query_max_resources",
    resources_need_room = "gdma.h: struct gdma_query_max_resources_resp",
    lists_the_nic = "gdma_main.c: mana_gd_detect_devices",
    lists_into_the_whole_table = "gdma.h: struct gdma_list_devices_resp",
    lists_nothing_without_room = "gdma.h: struct gdma_list_devices_resp",
    registers_the_nic = "gdma_main.c: mana_gd_register_device",
    refuses_to_register_other_devices = "gdma_main.c: mana_gd_register_device",
    refuses_to_register_twice = "gdma_main.c: mana_gd_register_device",
    registers_nothing_without_room = "gdma.h: struct gdma_register_device_resp",
    takes_the_nic_back = "gdma_main.c: mana_gd_deregister_device",
    refuses_to_take_back_other_devices = "gdma_main.c: mana_gd_deregister_device",
    refuses_to_take_back_what_is_not_registered = "gdma_main.c: mana_gd_deregister_device",
    taking_back_ends_every_object = "mana_en.c: mana_remove",
    registers_again = "gdma_main.c: mana_gd_resume",
    test_event_arrives_on_the_channel = "hw_channel.c: mana_hwc_test_channel",
    test_event_needs_a_queue = "gdma_main.c: mana_gd_test_eq",
    test_event_needs_its_body = "gdma.h: struct gdma_generate_test_event_req",
    reset_request_event_carries_its_data = "gdma.h: GDMA_EQE_HWC_RESET_REQUEST",
    reset_request_event_needs_a_queue = "gdma.h: GDMA_EQE_HWC_RESET_REQUEST",
    queues_need_a_registered_device = "gdma_main.c: mana_gd_create_hw_eq",
}

fn agrees_on_version_1(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let resp = driver.verify_version(0)?;
    check_eq("protocol version", resp.protocol_ver, 1)
}

fn version_request(body: &VerifyVersionReq) -> Request {
    Request::new(code::VERIFY_VF_DRIVER_VERSION, body, 40)
}

fn agrees_on_a_range_of_versions(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let body = VerifyVersionReq {
        protocol_ver_min: 0,
        protocol_ver_max: u64::MAX,
        ..verify_version(0)
    };
    driver.succeed(&version_request(&body)).map(|_| ())
}

fn refuses_versions_it_does_not_speak(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    for (min, max) in [(2, 3), (0, 0), (1, 0)] {
        let body = VerifyVersionReq {
            protocol_ver_min: min,
            protocol_ver_max: max,
            ..verify_version(0)
        };
        driver.refuse(&version_request(&body), Status::VersionMismatch)?;
    }
    driver.verify_version(0).map(|_| ())
}

fn version_request_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let mut request = version_request(&verify_version(0));
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}

fn version_response_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::new(code::VERIFY_VF_DRIVER_VERSION, &verify_version(0), 39);
    driver.refuse(&request, Status::ResponseTooSmall)
}

fn version_strings_may_hold_anything(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    for byte in [0xff, 0x0a, 0x80] {
        let mut body = verify_version(0);
        body.os_ver_str = [[byte; 128]; 4];
        driver.succeed(&version_request(&body))?;
    }
    Ok(())
}

fn a_longer_version_request_is_accepted(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let mut request = version_request(&verify_version(0));
    request.body.extend([0; 200]);
    driver.succeed(&request).map(|_| ())
}

fn max_resources(driver: &mut Driver<'_>) -> Outcome<MaxResourcesResp> {
    driver.ask(&Request::of_bytes(code::QUERY_MAX_RESOURCES, &[], 40))
}

fn tells_what_there_is(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let found = max_resources(driver)?;
    check_eq("status in the body", found.status, 0)?;
    // A vector for the channel, and one for a CPU at least.
    check(found.max_msix >= 2, alloc::format!("{found:?}"))?;
    let least = [found.max_eq, found.max_cq, found.max_sq, found.max_rq];
    check(!least.contains(&0), alloc::format!("{found:?}"))
}

fn resources_leave_room_for_the_channel(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let found = max_resources(driver)?;
    for _ in 0..found.max_eq {
        driver.create_eq(0, 4096)?;
    }
    Ok(())
}

fn resources_need_room(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::QUERY_MAX_RESOURCES, &[], 39);
    driver.refuse(&request, Status::ResponseTooSmall)
}

fn lists_the_nic(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::LIST_DEVICES, &[], size_of::<ListDevicesResp>());
    let found: ListDevicesResp = driver.ask(&request)?;
    let devices = &found.devs[..found.num_of_devs.min(64) as usize];
    let nic = devices.iter().filter(|dev| dev.device_type == 2).count();
    check_eq(alloc::format!("NICs in {devices:?}"), nic, 1)
}

fn lists_into_the_whole_table(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::LIST_DEVICES, &[], size_of::<ListDevicesResp>());
    let found: ListDevicesResp = driver.ask(&request)?;
    let used = found.num_of_devs as usize;
    let unused = found.devs.iter().skip(used);
    check(
        unused.clone().all(|dev| *dev == DevId::default()),
        "slots after the last device are not zero",
    )
}

fn lists_nothing_without_room(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::LIST_DEVICES, &[], 8);
    driver.refuse(&request, Status::ResponseTooSmall)
}

fn registers_the_nic(driver: &mut Driver<'_>) -> Outcome {
    let found = driver.start()?;
    let map = driver.registers();
    let page = map.doorbells + u64::from(found.db_id) * u64::from(map.doorbell_page);
    check_eq("where its doorbells are", page, map.doorbells)
}

fn register_request() -> Request {
    Request::of_bytes(code::REGISTER_DEVICE, &[], 12).to(DEV_MANA)
}

fn deregister_request() -> Request {
    Request::of_bytes(code::DEREGISTER_DEVICE, &[], 0).to(DEV_MANA)
}

/// Devices that are not the NIC.
fn others() -> [DevId; 3] {
    let instance = DevId {
        instance: 2,
        ..DEV_MANA
    };
    [DEV_HWC, instance, DevId::default()]
}

fn refuses_to_register_other_devices(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.verify_version(0)?;
    for other in others() {
        driver.refuse(&register_request().to(other), Status::NoSuchDevice)?;
    }
    driver.register().map(|_| ())
}

fn refuses_to_register_twice(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.refuse(&register_request(), Status::InvalidState)
}

fn registers_nothing_without_room(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::REGISTER_DEVICE, &[], 11).to(DEV_MANA);
    driver.refuse(&request, Status::ResponseTooSmall)?;
    driver.register().map(|_| ())
}

fn takes_the_nic_back(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.deregister()
}

fn refuses_to_take_back_other_devices(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for other in others() {
        driver.refuse(&deregister_request().to(other), Status::NoSuchDevice)?;
    }
    driver.deregister()
}

fn refuses_to_take_back_what_is_not_registered(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.refuse(&deregister_request(), Status::InvalidState)
}

fn taking_back_ends_every_object(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    driver.deregister()?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    driver.destroy_queue(QueueType::Eq, vport.eq.id)?;
    driver.register()?;
    let gone = crate::driver::nic::destroy_object(QueueType::Sq, vport.tx.handle);
    driver.refuse(&gone, Status::InvalidHandle)
}

fn registers_again(driver: &mut Driver<'_>) -> Outcome {
    driver.start_and_open()?.works(driver)?;
    driver.deregister()?;
    driver.register()?;
    driver.open(0)?.works(driver)
}

fn test_event_arrives_on_the_channel(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let id = driver.with_hwc(|hwc, _| Ok(hwc.eq.id))?;
    driver.test_eq(id)?.expect(Status::Success)?;
    driver.with_hwc(|hwc, _| {
        let types: alloc::vec::Vec<u8> = hwc.events.iter().map(|e| e.event_type).collect();
        check_eq("events", types, [eqe::TEST_EVENT].into())
    })
}

fn test_event_needs_a_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    for id in [0, 77, 0xffff, u32::MAX] {
        driver.test_eq(id)?.expect(Status::InvalidHandle)?;
    }
    Ok(())
}

fn test_event_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::GENERATE_TEST_EQE, &[1, 0, 0], 0);
    driver.refuse(&request, Status::TooShort)
}

fn reset_request(queue_index: u32, data: u32) -> Request {
    let body = GenerateResetEqeReq { queue_index, data };
    Request::new(code::GENERATE_RESET_REQUEST_EQE, &body, 0)
}

fn reset_request_event_carries_its_data(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(4, 4096)?;
    driver.succeed(&reset_request(eq.id, 0x1234_5678))?;
    driver.expect_interrupts(4, 1)?;
    let events = eq.drain(driver)?;
    let found: alloc::vec::Vec<_> = events.iter().map(|e| (e.event_type, e.details)).collect();
    let expected = (eqe::HWC_RESET_REQUEST, [0x1234_5678, 0, 0]);
    check_eq("events", found, [expected].into())
}

fn reset_request_event_needs_a_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.refuse(&reset_request(0, 1), Status::InvalidHandle)
}

fn queues_need_a_registered_device(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let page = driver.page_list(1)?;
    let region = driver.region(&page)?;
    let body = create_queue(QueueType::Eq, region, 4096);
    let request = Request::new(code::CREATE_QUEUE, &body, 4).to(DEV_MANA);
    driver.refuse(&request, Status::InvalidParameter)?;
    driver.register()?;
    driver.succeed(&request).map(|_| ())
}
