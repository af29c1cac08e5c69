//! Links that go up and down.

use mana_wire::gdma::cap1;
use mana_wire::hwc::{TypeData, reconfig};
use mana_wire::queue::eqe;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::traffic::frame;
use crate::failure::{Outcome, check_eq};

super::declare! { "links":
    going_down_is_told = "hw_channel.c: mana_hwc_init_event_handler, HWC_DATA_HW_LINK_DISCONNECT",
    going_up_is_told = "hw_channel.c: mana_hwc_init_event_handler, HWC_DATA_HW_LINK_CONNECT",
    a_driver_that_does_not_know_is_not_told = "gdma.h: GDMA_DRV_CAP_FLAG_1_HW_VPORT_LINK_AWARE",
    no_change_is_not_told = "hw_channel.c: mana_hwc_init_event_handler",
    without_a_channel_nothing_happens = "hw_channel.c: mana_hwc_init_event_handler",
    the_state_outlives_a_reset = "WIT: device.link-changed",
    packets_go_on = "mana_en.c: mana_link_state_handle",
    the_channel_goes_on = "hw_channel.c: mana_hwc_init_event_handler",
}

/// Returns the kinds of the device's reconfiguration events, in order.
fn told(driver: &mut Driver<'_>) -> Outcome<alloc::vec::Vec<u8>> {
    driver.with_hwc(|hwc, driver| {
        let mut events = core::mem::take(&mut hwc.events);
        events.extend(hwc.eq.drain(driver)?);
        hwc.eq.ring(driver, true);
        let kinds = events.iter().map(|event| {
            check_eq("type", event.event_type, eqe::HWC_SOC_RECONFIG_DATA)?;
            Ok(TypeData::from_bits(event.details[0]).kind())
        });
        kinds.collect()
    })
}

fn going_down_is_told(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.bench.set_link(0, false);
    driver.expect_interrupts(0, 1)?;
    check_eq("events", told(driver)?, [reconfig::LINK_DISCONNECT].into())
}

fn going_up_is_told(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.bench.set_link(1, false);
    driver.bench.set_link(1, true);
    let expected = [reconfig::LINK_DISCONNECT, reconfig::LINK_CONNECT];
    check_eq("events", told(driver)?, expected.into())
}

fn a_driver_that_does_not_know_is_not_told(driver: &mut Driver<'_>) -> Outcome {
    driver.start_with(cap1::HWC_TIMEOUT_RECONFIG)?;
    driver.bench.set_link(0, false);
    driver.bench.set_link(0, true);
    driver.expect_interrupts(0, 0)?;
    check_eq("events", told(driver)?, [].into())
}

fn no_change_is_not_told(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.bench.set_link(0, true);
    driver.expect_interrupts(0, 0)?;
    driver.bench.set_link(0, false);
    driver.bench.set_link(0, false);
    check_eq("events", told(driver)?, [reconfig::LINK_DISCONNECT].into())
}

fn without_a_channel_nothing_happens(driver: &mut Driver<'_>) -> Outcome {
    driver.bench.set_link(0, false);
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    driver.start_and_open()?.works(driver)
}

fn the_state_outlives_a_reset(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.bench.set_link(0, false);
    driver.bench.reset();
    driver.take_all_interrupts();
    driver.start()?;
    driver.bench.set_link(0, false);
    driver.expect_interrupts(0, 0)?;
    driver.bench.set_link(0, true);
    check_eq("events", told(driver)?, [reconfig::LINK_CONNECT].into())
}

fn packets_go_on(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.set_link(0, false);
    vport.send(driver, &frame(60))?;
    driver.bench.set_link(0, true);
    vport.works(driver)
}

fn the_channel_goes_on(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    for up in [false, true, false] {
        driver.bench.set_link(0, up);
    }
    driver.expect_interrupts(0, 1)?;
    check_eq("events", told(driver)?.len(), 3)?;
    let request = Request::of_bytes(mana_wire::gdma::code::LIST_DEVICES, &[], 16);
    driver.succeed(&request).map(|_| ())
}
