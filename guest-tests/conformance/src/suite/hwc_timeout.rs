//! How long a driver waits for an answer over the hardware channel.

use mana_wire::gdma::{HwcTimeout, Status, cap1, code};
use mana_wire::hwc::{TypeData, reconfig};
use mana_wire::queue::eqe;
use mana_wire::smc::HEADER;

use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::shm::report_timeout;
use crate::failure::{Failure, Outcome, check, check_eq};

super::declare! { "hwc_timeout":
    is_told = "gdma_main.c: mana_gd_query_hwc_timeout",
    can_be_set = "gdma_main.c: mana_gd_query_hwc_timeout",
    has_a_limit = "gdma_main.c: mana_gd_query_hwc_timeout",
    asking_needs_its_body = "gdma.h: struct gdma_query_hwc_timeout_req",
    a_report_extends_it = "hw_channel.c: HWC_DATA_CFG_HWC_TIMEOUT",
    a_report_stays_below_the_limit = "hw_channel.c: HWC_DATA_CFG_HWC_TIMEOUT",
}

fn timeout(driver: &mut Driver<'_>, timeout_ms: u32) -> Outcome<u32> {
    let body = HwcTimeout {
        timeout_ms,
        reserved: 0,
    };
    let resp: HwcTimeout = driver.ask(&Request::new(code::QUERY_HWC_TIMEOUT, &body, 8))?;
    Ok(resp.timeout_ms)
}

fn is_told(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let told = timeout(driver, 0)?;
    check(told >= 1000, format_args!("a timeout of {told} ms"))?;
    check_eq("the timeout asked again", timeout(driver, 0)?, told)
}

fn can_be_set(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    check_eq("timeout", timeout(driver, 45_000)?, 45_000)?;
    check_eq("timeout asked again", timeout(driver, 0)?, 45_000)
}

fn has_a_limit(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let told = timeout(driver, u32::MAX)?;
    check(told < 1 << 24, format_args!("a timeout of {told} ms"))
}

fn asking_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::QUERY_HWC_TIMEOUT, &[0; 7], 8);
    driver.refuse(&request, Status::TooShort)?;
    let request = Request::of_bytes(code::QUERY_HWC_TIMEOUT, &[0; 8], 7);
    driver.refuse(&request, Status::ResponseTooSmall)
}

/// Reports a timeout. Returns the timeout that the device then sets.
fn report(driver: &mut Driver<'_>) -> Outcome<u32> {
    driver.shm_succeed(&[0; HEADER], report_timeout())?;
    driver.expect_interrupts(0, 1)?;
    driver.with_hwc(|hwc, driver| {
        let events = hwc.eq.drain(driver)?;
        hwc.eq.ring(driver, true);
        let [event] = events[..] else {
            return Err(Failure::new(alloc::format!(
                "expected one event, found {events:#?}"
            )));
        };
        check_eq("type", event.event_type, eqe::HWC_SOC_RECONFIG_DATA)?;
        let data = TypeData::from_bits(event.details[0]);
        check_eq("kind", data.kind(), reconfig::HWC_TIMEOUT)?;
        Ok(data.value())
    })
}

fn a_report_extends_it(driver: &mut Driver<'_>) -> Outcome {
    driver.start_with(cap1::HWC_TIMEOUT_RECONFIG)?;
    let before = timeout(driver, 0)?;
    let told = report(driver)?;
    check(told > before, format_args!("{before} ms became {told} ms"))?;
    check_eq("timeout asked", timeout(driver, 0)?, told)
}

fn a_report_stays_below_the_limit(driver: &mut Driver<'_>) -> Outcome {
    driver.start_with(cap1::HWC_TIMEOUT_RECONFIG)?;
    let limit = timeout(driver, u32::MAX)?;
    for _ in 0..3 {
        check_eq("timeout", report(driver)?, limit)?;
    }
    Ok(())
}
