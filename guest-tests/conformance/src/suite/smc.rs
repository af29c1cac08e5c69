//! The shared-memory channel.

use mana_wire::smc::{EstablishHwc, HEADER, Header, SmcStatus};

use crate::bench::MEMORY_SIZE;
use crate::driver::Driver;
use crate::driver::hwc::{self, Hwc};
use crate::driver::shm::{destroy, establish, report_timeout};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "smc":
    belongs_to_the_driver_at_first = "shm_channel.c: mana_smc_poll_register",
    establishes_the_channel = "shm_channel.c: mana_smc_setup_hwc",
    answers_with_owner_type_and_response_bit = "shm_channel.c: mana_smc_read_response",
    keeps_the_arguments = "shm_channel.c: mana_smc_setup_hwc",
    works_without_the_last_word_only_then = "shm_channel.c: mana_smc_setup_hwc",
    takes_words_of_8_bytes = "WIT: device.write-register",
    takes_single_bytes = "WIT: device.write-register",
    establishes_over_another_drivers_channel = "kdump: gdma_main.c: mana_gd_probe",
    a_refused_channel_leaves_the_one_that_is_there = "hostile guest: pages outside memory",
    establishes_anew_with_reset = "shm_channel.c: SMC_MSG_TYPE_ESTABLISH_HWC, reset_vf",
    establishes_again_after_destroy = "shm_channel.c: mana_smc_teardown_hwc",
    answers_a_newer_version_with_its_own = "shm_channel.c: SMC_MSG_TYPE_ESTABLISH_HWC_VERSION",
    refuses_unknown_messages = "shm_channel.c: mana_smc_read_response",
    refuses_responses = "shm_channel.c: union smc_proto_hdr",
    refuses_each_page_outside_memory = "shm_channel.c: mana_smc_setup_hwc",
    refuses_a_frame_beyond_the_address_space = "shm_channel.c: mana_smc_setup_hwc",
    reads_the_high_bits_of_each_frame = "shm_channel.c: mana_smc_setup_hwc, PAGE_FRAME_H4_WIDTH_BITS",
    refuses_a_vector_beyond_the_table = "shm_channel.c: mana_smc_setup_hwc, eq_msix_index",
    uses_the_vector_it_was_given = "shm_channel.c: mana_smc_setup_hwc, eq_msix_index",
    a_refused_channel_leaves_nothing = "shm_channel.c: mana_smc_setup_hwc",
    destroy_ends_the_channel = "shm_channel.c: mana_smc_teardown_hwc",
    destroy_without_a_channel_succeeds = "shm_channel.c: mana_smc_teardown_hwc",
    report_of_a_timeout_is_answered = "openvmm gdma_defs: SMC_MSG_TYPE_REPORT_HWC_TIMEOUT",
    report_of_version_0_is_refused = "openvmm gdma_defs: SMC_MSG_TYPE_REPORT_HWC_TIMEOUT",
    report_without_a_channel_is_harmless = "openvmm gdma_defs: SMC_MSG_TYPE_REPORT_HWC_TIMEOUT",
}

fn belongs_to_the_driver_at_first(driver: &mut Driver<'_>) -> Outcome {
    check_eq("the aperture", driver.aperture(), [0; 32])
}

fn establishes_the_channel(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()
}

fn answers_with_owner_type_and_response_bit(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 0)?;
    let answer = driver.shm_establish(&message)?;
    let expected = establish().with_response(true).into_bits();
    check_eq("header of the answer", answer.into_bits(), expected)
}

fn keeps_the_arguments(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 5)?;
    driver.shm_establish(&message)?;
    let found = driver.aperture();
    check_eq("arguments", &found[..HEADER], &message.pack()[..])
}

fn works_without_the_last_word_only_then(driver: &mut Driver<'_>) -> Outcome {
    let base = driver.registers().shared_memory;
    for offset in (0..HEADER as u64).step_by(4) {
        driver.bench.write_register(base + offset, 4, 0xffff_ffff);
    }
    check_eq("header", driver.shm_header().into_bits(), 0)?;
    driver.establish()
}

fn takes_words_of_8_bytes(driver: &mut Driver<'_>) -> Outcome {
    written_in_pieces_of(driver, 8)
}

fn takes_single_bytes(driver: &mut Driver<'_>) -> Outcome {
    written_in_pieces_of(driver, 1)
}

fn written_in_pieces_of(driver: &mut Driver<'_>, width: usize) -> Outcome {
    let base = driver.registers().shared_memory;
    let message = hwc::pages(driver, 0)?;
    let mut aperture = [0; 32];
    aperture[..HEADER].copy_from_slice(&message.pack());
    let header = establish().with_owner_is_pf(true).into_bits();
    aperture[HEADER..].copy_from_slice(&header.to_le_bytes());
    for (index, piece) in aperture.chunks(width).enumerate() {
        let mut value = [0; 8];
        value[..width].copy_from_slice(piece);
        let offset = base + (index * width) as u64;
        let value = u64::from_le_bytes(value);
        driver.bench.write_register(offset, width as u8, value);
    }
    let answer = driver.shm_header();
    check(!answer.owner_is_pf(), "the aperture is still the device's")?;
    check_eq("status", answer.status(), 0)?;
    driver.expect_interrupts(0, 1)
}

/// A dump kernel finds the device as the crashed kernel left it: with queues in memory
/// that is part of the dump.
fn establishes_over_another_drivers_channel(driver: &mut Driver<'_>) -> Outcome {
    let mut left = driver.start_and_open()?;
    left.post_buffer(driver, 1514)?;
    let message = hwc::pages(driver, 2)?;
    driver.shm_succeed(&message.pack(), establish())?;
    driver.expect_interrupts(2, 1)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    driver.start_and_open()?.works(driver)
}

fn a_refused_channel_leaves_the_one_that_is_there(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let mut message = hwc::pages(driver, 1)?;
    message.sq = MEMORY_SIZE;
    for header in [establish(), establish().with_reset_vf(true)] {
        let answer = driver.shm_call(&message.pack(), header)?;
        check_eq("status", answer.status(), SmcStatus::BadAddress as u8)?;
    }
    vport.works(driver)
}

fn establishes_anew_with_reset(driver: &mut Driver<'_>) -> Outcome {
    driver.start_and_open()?;
    let message = hwc::pages(driver, 2)?;
    let header = establish().with_reset_vf(true);
    driver.shm_succeed(&message.pack(), header)?;
    driver.expect_interrupts(2, 1)?;
    check_eq("posted buffers", driver.bench.posted_buffers(0), 0)?;
    driver.shm_succeed(&[0; HEADER], destroy())?;
    driver.start_and_open()?.works(driver)
}

fn establishes_again_after_destroy(driver: &mut Driver<'_>) -> Outcome {
    for _ in 0..5 {
        driver.establish()?;
        driver.verify_version(0)?;
        driver.shm_succeed(&[0; HEADER], destroy())?;
    }
    Ok(())
}

fn answers_a_newer_version_with_its_own(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 0)?;
    let header = establish().with_msg_version(3);
    let answer = driver.shm_call(&message.pack(), header)?;
    check_eq("status", answer.status(), 0)?;
    check_eq("version of the answer", answer.msg_version(), 0)
}

fn refuses_unknown_messages(driver: &mut Driver<'_>) -> Outcome {
    for msg_type in [0, 3, 5, 7] {
        let header = Header::new().with_msg_type(msg_type);
        let answer = driver.shm_call(&[0; HEADER], header)?;
        check_eq(
            format_args!("status of message {msg_type}"),
            answer.status(),
            SmcStatus::UnknownType as u8,
        )?;
    }
    driver.establish()
}

fn refuses_responses(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 0)?;
    let header = establish().with_response(true);
    let answer = driver.shm_call(&message.pack(), header)?;
    check_eq("status", answer.status(), SmcStatus::NotARequest as u8)?;
    driver.establish()
}

fn refuses_each_page_outside_memory(driver: &mut Driver<'_>) -> Outcome {
    let good = hwc::pages(driver, 0)?;
    let outside = MEMORY_SIZE;
    let bad = [
        EstablishHwc {
            eq: outside,
            ..good
        },
        EstablishHwc {
            cq: outside,
            ..good
        },
        EstablishHwc {
            rq: outside,
            ..good
        },
        EstablishHwc {
            sq: outside,
            ..good
        },
    ];
    for message in bad {
        let answer = driver.shm_establish(&message)?;
        check_eq(
            format_args!("status for {message:x?}"),
            answer.status(),
            SmcStatus::BadAddress as u8,
        )?;
    }
    driver.establish()
}

fn refuses_a_frame_beyond_the_address_space(driver: &mut Driver<'_>) -> Outcome {
    let arguments = [0xff; HEADER];
    let answer = driver.shm_call(&arguments, establish())?;
    check_eq("status", answer.status(), SmcStatus::BadAddress as u8)?;
    driver.establish()
}

fn reads_the_high_bits_of_each_frame(driver: &mut Driver<'_>) -> Outcome {
    let good = hwc::pages(driver, 0)?;
    for place in 0..4 {
        let mut arguments = good.pack();
        let high = 1u16 << (4 * place);
        arguments[24..26].copy_from_slice(&high.to_le_bytes());
        let answer = driver.shm_call(&arguments, establish())?;
        check_eq(
            format_args!("status with frame {place} at 2^60"),
            answer.status(),
            SmcStatus::BadAddress as u8,
        )?;
    }
    driver.establish()
}

fn refuses_a_vector_beyond_the_table(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 0x7ff)?;
    let answer = driver.shm_establish(&message)?;
    check_eq("status", answer.status(), SmcStatus::BadVector as u8)?;
    driver.establish()
}

fn uses_the_vector_it_was_given(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 7)?;
    driver.hwc = Some(Hwc::establish(driver, &message)?);
    driver.verify_version(0)?;
    check_eq("other interrupts", driver.take_all_interrupts(), [].into())
}

fn a_refused_channel_leaves_nothing(driver: &mut Driver<'_>) -> Outcome {
    let message = hwc::pages(driver, 0x7ff)?;
    driver.shm_establish(&message)?;
    super::reset::check_nothing_left(driver)?;
    check_eq("interrupts", driver.take_all_interrupts(), [].into())
}

fn destroy_ends_the_channel(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.shm_succeed(&[0; HEADER], destroy())?;
    driver.with_hwc(|hwc, driver| {
        hwc.sq.ring(driver);
        hwc.eq.ring(driver, true);
        hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
        hwc.post_request(driver, &[hwc.sge(hwc.request_page, 64)]);
        let completions = hwc.poll(driver)?;
        check_eq("completions", completions.len(), 0)
    })?;
    check_eq("interrupts", driver.take_all_interrupts(), [].into())
}

fn destroy_without_a_channel_succeeds(driver: &mut Driver<'_>) -> Outcome {
    driver.shm_succeed(&[0; HEADER], destroy())?;
    driver.shm_succeed(&[0; HEADER], destroy())?;
    driver.establish()
}

fn report_of_a_timeout_is_answered(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.verify_version(0)?;
    driver.shm_succeed(&[0; HEADER], report_timeout())?;
    driver.expect_interrupts(0, 0)
}

fn report_of_version_0_is_refused(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let header = report_timeout().with_msg_version(0);
    let answer = driver.shm_call(&[0; HEADER], header)?;
    check_eq(
        "status",
        answer.status(),
        SmcStatus::UnsupportedVersion as u8,
    )
}

fn report_without_a_channel_is_harmless(driver: &mut Driver<'_>) -> Outcome {
    driver.shm_succeed(&[0; HEADER], report_timeout())?;
    driver.establish()
}
