//! How a vport's packets find their queue.

use alloc::vec::Vec;

use device_kit::platform::RxFlags;
use mana_wire::bnic::{ConfigVportRxReq, code};
use mana_wire::gdma::Status;
use mana_wire::queue::QueueType;
use zerocopy::IntoBytes;

use crate::driver::Driver;
use crate::driver::message::{REQUEST_HEADER, Request};
use crate::driver::nic::{Sizes, Vport, steering};
use crate::driver::traffic::frame;
use crate::failure::{Outcome, check_eq};

super::declare! { "steering":
    a_new_vport_does_not_receive = "mana_en.c: mana_cfg_vport_steering",
    enabling_posts_buffers_that_wait = "mana_en.c: mana_alloc_queues, mana_create_rxq (pushes WQEs first)",
    disabling_takes_buffers_back = "mana_en.c: mana_dealloc_queues",
    enabling_again_posts_them_again = "mana_en.c: mana_config_rss",
    disabling_twice_is_harmless = "mana_en.c: mana_dealloc_queues",
    a_disabled_vport_still_transmits = "mana_en.c: mana_dealloc_queues",
    unknown_leaves_things_as_they_are = "mana.h: TRI_STATE_UNKNOWN",
    refuses_states_that_are_not = "mana.h: enum TRI_STATE",
    enabling_needs_a_default_object = "mana_en.c: mana_cfg_vport_steering, default_rxobj",
    enabling_needs_an_object_that_lives = "mana_en.c: mana_cfg_vport_steering, default_rxobj",
    refuses_objects_that_are_not = "mana_en.c: mana_cfg_vport_steering, default_rxobj",
    refuses_a_send_object = "mana_en.c: mana_cfg_vport_steering, default_rxobj",
    refuses_another_vports_object = "mana_en.c: mana_cfg_vport_steering, default_rxobj",
    needs_a_vport = "mana_en.c: mana_cfg_vport_steering, vport",
    needs_its_body = "mana_en.c: mana_cfg_vport_steering",
    takes_a_table_as_linux_sends_it = "mana_en.c: mana_cfg_vport_steering, indir_tab_offset",
    takes_a_table_of_each_power_of_two = "mana.h: MANA_INDIRECT_TABLE_DEF_SIZE",
    refuses_tables_of_other_sizes = "mana.h: MANA_INDIRECT_TABLE_DEF_SIZE",
    refuses_a_table_between_words = "mana_en.c: mana_cfg_vport_steering, indir_tab_offset",
    refuses_a_table_outside_the_message = "mana_en.c: mana_cfg_vport_steering, indir_tab_offset",
    refuses_a_table_of_unknown_objects = "mana_en.c: mana_cfg_vport_steering",
    ignores_a_table_that_is_not_to_be_taken = "mana_en.c: mana_cfg_vport_steering, update_indir_tab",
    takes_a_hash_key = "mana_en.c: mana_cfg_vport_steering, update_hashkey",
    a_refused_change_changes_nothing = "mana_en.c: mana_cfg_vport_steering",
}

/// Returns a started device with a vport that does not receive yet.
fn quiet(driver: &mut Driver<'_>) -> Outcome<Vport> {
    let vport = driver.start_and_open()?;
    driver.disable_rx(vport.handle)?;
    Ok(vport)
}

fn posted(driver: &mut Driver<'_>, expected: usize) -> Outcome {
    check_eq("posted buffers", driver.bench.posted_buffers(0), expected)
}

fn a_new_vport_does_not_receive(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let mut object = driver.create_object(vport, QueueType::Rq, None, Sizes::SMALL)?;
    let address = driver.pages(1)?;
    let wqe = crate::driver::wqe::Wqe::receive(&[crate::driver::wqe::sge(address, 2048)]);
    object.wq.post(driver, &wqe);
    posted(driver, 0)
}

fn enabling_posts_buffers_that_wait(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = quiet(driver)?;
    let (address, offset) = vport.post_buffer(driver, 2048)?;
    posted(driver, 0)?;
    driver.enable_rx(vport.handle, vport.rx.handle)?;
    posted(driver, 1)?;
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.take_frame(driver, &frame(60), address, offset)
}

fn disabling_takes_buffers_back(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for _ in 0..5 {
        vport.post_buffer(driver, 2048)?;
    }
    driver.disable_rx(vport.handle)?;
    posted(driver, 0)?;
    let found = driver.bench.receive(0, &[(&frame(60), RxFlags::empty())]);
    check_eq("frames that found a buffer", found, 0)?;
    vport.rx.cq.expect_none(driver)
}

fn enabling_again_posts_them_again(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let mut buffers = Vec::new();
    for _ in 0..5 {
        buffers.push(vport.post_buffer(driver, 2048)?);
    }
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    driver.disable_rx(vport.handle)?;
    driver.enable_rx(vport.handle, vport.rx.handle)?;
    posted(driver, 4)?;
    for _ in 1..5 {
        vport.arrive(driver, &frame(60), RxFlags::empty())?;
    }
    for (address, offset) in buffers {
        vport.take_frame(driver, &frame(60), address, offset)?;
    }
    posted(driver, 0)
}

fn disabling_twice_is_harmless(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = quiet(driver)?;
    driver.disable_rx(vport.handle)?;
    driver.enable_rx(vport.handle, vport.rx.handle)?;
    driver.enable_rx(vport.handle, vport.rx.handle)?;
    vport.works(driver)
}

fn a_disabled_vport_still_transmits(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = quiet(driver)?;
    vport.send(driver, &frame(100)).map(|_| ())
}

fn unknown_leaves_things_as_they_are(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let nothing = steering(vport.handle);
    driver.steer(&nothing)?.expect(Status::Success)?;
    vport.works(driver)?;
    driver.disable_rx(vport.handle)?;
    driver.steer(&nothing)?.expect(Status::Success)?;
    vport.post_buffer(driver, 2048)?;
    posted(driver, 0)
}

fn refuses_states_that_are_not(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for state in [2, 0x100, 0xffff_fffe] {
        let rx = ConfigVportRxReq {
            rx_enable: state,
            ..steering(vport.handle)
        };
        driver.steer(&rx)?.expect(Status::InvalidParameter)?;
        let rss = ConfigVportRxReq {
            rss_enable: state,
            ..steering(vport.handle)
        };
        driver.steer(&rss)?.expect(Status::InvalidParameter)?;
    }
    vport.works(driver)
}

fn enabling_needs_a_default_object(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    let body = ConfigVportRxReq {
        rx_enable: 1,
        ..steering(vport)
    };
    driver
        .steer(&body)?
        .expect(Status::InvalidState)
        .map(|_| ())
}

fn enabling_needs_an_object_that_lives(driver: &mut Driver<'_>) -> Outcome {
    let vport = quiet(driver)?;
    driver.destroy_object(&vport.rx)?;
    let body = ConfigVportRxReq {
        rx_enable: 1,
        ..steering(vport.handle)
    };
    let answer = driver.steer(&body)?;
    answer.expect(Status::InvalidHandle).map(|_| ())
}

/// Checks that a default object is refused, and nothing changes.
fn refused(driver: &mut Driver<'_>, vport: &mut Vport, object: u64) -> Outcome {
    let body = ConfigVportRxReq {
        update_default_rxobj: 1,
        default_rxobj: object,
        ..steering(vport.handle)
    };
    driver.steer(&body)?.expect(Status::InvalidHandle)?;
    vport.works(driver)
}

fn refuses_objects_that_are_not(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let others = [0, u64::MAX, vport.handle, vport.rx.handle ^ 1 << 20];
    for object in others {
        refused(driver, &mut vport, object)?;
    }
    Ok(())
}

fn refuses_a_send_object(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let object = vport.tx.handle;
    refused(driver, &mut vport, object)
}

fn refuses_another_vports_object(driver: &mut Driver<'_>) -> Outcome {
    let mut vports = driver.start_and_open_all(2)?;
    let object = vports[1].rx.handle;
    refused(driver, &mut vports[0], object)
}

fn needs_a_vport(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for handle in [0, 3, u64::MAX] {
        let answer = driver.steer(&steering(handle))?;
        answer.expect(Status::InvalidHandle)?;
    }
    Ok(())
}

fn needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    let mut request = Request::new(code::CONFIG_VPORT_RX, &steering(vport.handle), 0);
    request.body.pop();
    driver.refuse(&request, Status::TooShort)
}

/// Returns a request with a table after its fixed part.
fn with_table(vport: u64, table: &[u64]) -> (ConfigVportRxReq, Vec<u8>) {
    let body = ConfigVportRxReq {
        num_indir_entries: table.len() as u16,
        indir_tab_offset: (REQUEST_HEADER + size_of::<ConfigVportRxReq>()) as u16,
        rss_enable: 1,
        update_indir_tab: 1,
        ..steering(vport)
    };
    let table = table.iter().flat_map(|handle| handle.to_le_bytes());
    (body, table.collect())
}

fn table_request(body: &ConfigVportRxReq, table: &[u8]) -> Request {
    let bytes = [body.as_bytes(), table].concat();
    Request::of_bytes(code::CONFIG_VPORT_RX, &bytes, 0)
}

fn takes_a_table_as_linux_sends_it(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (mut body, table) = with_table(vport.handle, &[vport.rx.handle; 64]);
    // Linux puts 8 bytes between the hash key and the table in newer versions.
    body.indir_tab_offset += 8;
    let table = [&[0; 8][..], &table].concat();
    driver.succeed(&table_request(&body, &table))?;
    vport.works(driver)
}

fn takes_a_table_of_each_power_of_two(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for size in [1, 2, 4, 8, 16, 32, 64] {
        let (body, table) = with_table(vport.handle, &[vport.rx.handle; 64][..size]);
        driver.succeed(&table_request(&body, &table))?;
        vport.works(driver)?;
    }
    Ok(())
}

fn refuses_tables_of_other_sizes(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for size in [0, 3, 63, 128, 256] {
        let table = alloc::vec![vport.rx.handle; size];
        let (body, table) = with_table(vport.handle, &table);
        let request = table_request(&body, &table);
        driver.refuse(&request, Status::InvalidParameter)?;
    }
    vport.works(driver)
}

fn refuses_a_table_between_words(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (mut body, table) = with_table(vport.handle, &[vport.rx.handle; 8]);
    let padded = [&table[..], &[0; 8]].concat();
    for by in 1..8 {
        let (moved, rest) = (&[0; 8][..by], &padded[..padded.len() - by]);
        body.indir_tab_offset += by as u16;
        let request = table_request(&body, &[moved, rest].concat());
        driver.refuse(&request, Status::InvalidParameter)?;
        body.indir_tab_offset -= by as u16;
    }
    vport.works(driver)
}

fn refuses_a_table_outside_the_message(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (mut body, table) = with_table(vport.handle, &[vport.rx.handle; 8]);
    for offset in [body.indir_tab_offset + 8, 4096, 0xfff8] {
        body.indir_tab_offset = offset;
        let request = table_request(&body, &table);
        driver.refuse(&request, Status::TooShort)?;
    }
    vport.works(driver)
}

fn refuses_a_table_of_unknown_objects(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let good = vport.rx.handle;
    for bad in [0, u64::MAX, vport.tx.handle] {
        let (body, table) = with_table(vport.handle, &[good, good, good, bad]);
        let request = table_request(&body, &table);
        driver.refuse(&request, Status::InvalidHandle)?;
    }
    vport.works(driver)
}

fn ignores_a_table_that_is_not_to_be_taken(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (mut body, table) = with_table(vport.handle, &[0; 3]);
    (body.update_indir_tab, body.indir_tab_offset) = (0, 0xffff);
    driver.succeed(&table_request(&body, &table))?;
    vport.works(driver)
}

fn takes_a_hash_key(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let body = ConfigVportRxReq {
        update_hashkey: 1,
        hashkey: [0x6d; 40],
        ..steering(vport.handle)
    };
    driver.steer(&body)?.expect(Status::Success)?;
    vport.works(driver)
}

fn a_refused_change_changes_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    let body = ConfigVportRxReq {
        rx_enable: 0,
        update_default_rxobj: 1,
        default_rxobj: 7,
        ..steering(vport.handle)
    };
    driver.steer(&body)?.expect(Status::InvalidHandle)?;
    posted(driver, 1)
}
