//! A reset, by the VMM or by the driver, releases everything in any state.

use device_kit::platform::TxStatus;
use mana_wire::queue::QueueType;
use mana_wire::smc::HEADER;

use crate::driver::Driver;
use crate::driver::nic::Sizes;
use crate::driver::requests::create_region;
use crate::driver::shm::destroy;
use crate::driver::traffic::frame;
use crate::driver::wqe::sge;
use crate::failure::{Failure, Outcome, check_eq};

super::declare! { "reset":
    at_power_on = "gdma_main.c: mana_gd_probe",
    with_a_channel = "hw_channel.c: mana_hwc_destroy_channel",
    with_a_registered_device = "gdma_main.c: mana_gd_remove",
    with_regions_nobody_uses = "gdma_main.c: mana_gd_remove",
    with_an_unfinished_region = "gdma.h: GDMA_STATUS_MORE_ENTRIES",
    with_queues_of_no_object = "gdma_main.c: mana_gd_remove",
    with_open_vports = "mana_en.c: mana_remove",
    with_posted_buffers = "mana_en.c: mana_remove",
    with_pending_transmits = "mana_en.c: mana_remove",
    with_large_queues = "mana_en.c: mana_remove",
    with_a_request_that_waits = "hw_channel.c: mana_hwc_destroy_channel",
    with_half_a_doorbell = "gdma_main.c: mana_gd_ring_doorbell",
    with_half_a_request_in_shared_memory = "shm_channel.c: mana_smc_setup_hwc",
    after_a_fault = "gdma_main.c: mana_gd_remove",
    clears_the_shared_memory = "shm_channel.c: mana_smc_poll_register",
    raises_nothing = "gdma_main.c: mana_gd_remove_irqs",
    old_queues_are_gone = "gdma_main.c: mana_gd_remove",
    many_times_over = "hostile guest: it lasts",
    writes_no_memory_afterwards = "gdma_main.c: mana_gd_remove (pages are freed)",
}

/// Checks that the device holds nothing of a driver.
pub fn check_nothing_left(driver: &mut Driver<'_>) -> Outcome {
    super::check_inspect(driver, "/dma_regions/unused", 0)?;
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)?;
    for kind in ["sq", "rq", "cq", "eq"] {
        let left = driver.inspect(&alloc::format!("/queues/{kind}"))?;
        let queues = left.as_ref().and_then(|left| left.as_object());
        if let Some(queues) = queues.filter(|queues| !queues.is_empty()) {
            return Err(Failure::new(alloc::format!(
                "queues of kind {kind} are left: {queues:?}"
            )));
        }
    }
    for port in 0..super::PORTS {
        check_eq("posted buffers", driver.bench.posted_buffers(port), 0)?;
        check_eq("pending", driver.bench.pending_transmits(port), 0)?;
    }
    Ok(())
}

/// Brings the device into a state, resets it each way, and checks that nothing is left
/// and everything works again.
fn in_state(driver: &mut Driver<'_>, state: impl Fn(&mut Driver<'_>) -> Outcome) -> Outcome {
    let ends: [fn(&mut Driver<'_>) -> Outcome; 2] = [
        |driver| {
            driver.bench.reset();
            Ok(())
        },
        |driver| driver.shm_succeed(&[0; HEADER], destroy()),
    ];
    for end in ends {
        state(driver)?;
        end(driver)?;
        driver.take_all_interrupts();
        check_nothing_left(driver)?;
        for mut vport in driver.start_and_open_all(super::PORTS)? {
            vport.works(driver)?;
        }
        driver.bench.reset();
        check_nothing_left(driver)?;
        driver.take_all_interrupts();
    }
    Ok(())
}

fn at_power_on(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |_| Ok(()))
}

fn with_a_channel(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| driver.establish())
}

fn with_a_registered_device(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| driver.start().map(|_| ()))
}

fn with_regions_nobody_uses(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.establish()?;
        for count in [1, 2, 30] {
            let pages = driver.page_list(count)?;
            driver.region(&pages)?;
        }
        Ok(())
    })
}

fn with_an_unfinished_region(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.establish()?;
        let pages = driver.page_list(5)?;
        driver.call(&create_region(&pages, 2)).map(|_| ())
    })
}

fn with_queues_of_no_object(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.start()?;
        let eq = driver.create_eq(1, 4096)?;
        driver.create_cq(Some(&eq), 8192)?;
        driver.create_wq(QueueType::Sq, 4096)?;
        driver.create_wq(QueueType::Rq, 8192).map(|_| ())
    })
}

fn with_open_vports(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.start_and_open_all(super::PORTS).map(|_| ())
    })
}

fn with_posted_buffers(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        for mut vport in driver.start_and_open_all(super::PORTS)? {
            for _ in 0..9 {
                vport.post_buffer(driver, 256)?;
            }
        }
        Ok(())
    })
}

fn with_pending_transmits(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        for mut vport in driver.start_and_open_all(super::PORTS)? {
            let port = vport.port;
            driver.bench.plan_transmits(port, &[TxStatus::Pending; 3]);
            let address = driver.place(&frame(60))?;
            for _ in 0..3 {
                let wqe = vport.packet(&[sge(address, 60)]);
                vport.tx.wq.post(driver, &wqe);
            }
            driver.bench.take_transmitted(port);
        }
        Ok(())
    })
}

fn with_large_queues(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.start()?;
        driver.open_with(0, Sizes::LARGE)?;
        driver.open_with(1, Sizes::LARGE).map(|_| ())
    })
}

fn with_a_request_that_waits(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.establish()?;
        driver.with_hwc(|hwc, driver| {
            hwc.post_request(driver, &[hwc.sge(hwc.request_page, 64)]);
            Ok(())
        })
    })
}

fn with_half_a_doorbell(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        driver.start()?;
        let base = driver.registers().doorbells;
        driver.bench.write_register(base, 4, 1);
        Ok(())
    })
}

fn with_half_a_request_in_shared_memory(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        let base = driver.registers().shared_memory;
        for offset in (0..HEADER as u64).step_by(4) {
            driver.bench.write_register(base + offset, 4, 0x1234_5678);
        }
        Ok(())
    })
}

fn after_a_fault(driver: &mut Driver<'_>) -> Outcome {
    in_state(driver, |driver| {
        let mut vport = driver.start_and_open()?;
        vport.tx.wq.write_bytes(driver, &[0xff; 512]);
        vport.tx.wq.ring(driver);
        vport.rx.wq.write_bytes(driver, &[0xff; 512]);
        vport.rx.wq.ring(driver);
        Ok(())
    })
}

fn clears_the_shared_memory(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    driver.bench.reset();
    check_eq("the aperture", driver.aperture(), [0; 32])
}

fn raises_nothing(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 256)?;
    driver.take_all_interrupts();
    driver.bench.reset();
    check_eq("interrupts", driver.take_all_interrupts(), [].into())
}

fn old_queues_are_gone(driver: &mut Driver<'_>) -> Outcome {
    let vport = driver.start_and_open()?;
    driver.bench.reset();
    driver.take_all_interrupts();
    vport.tx.wq.ring(driver);
    vport.rx.wq.ring(driver);
    vport.tx.cq.ring(driver, true);
    vport.eq.ring(driver, true);
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    let found = driver
        .bench
        .receive(0, &[(&frame(60), device_kit::platform::RxFlags::empty())]);
    check_eq("frames that found a buffer", found, 0)
}

fn many_times_over(driver: &mut Driver<'_>) -> Outcome {
    for turn in 0..20 {
        driver.start_and_open()?.works(driver)?;
        if turn % 2 == 0 {
            driver.bench.reset();
        } else {
            driver.shm_succeed(&[0; HEADER], destroy())?;
        }
    }
    check_nothing_left(driver)
}

fn writes_no_memory_afterwards(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (buffer, _) = vport.post_buffer(driver, 256)?;
    driver.bench.reset();
    let queues = [&vport.eq.ring.memory, &vport.rx.cq.ring.memory];
    for memory in queues {
        memory.write(driver.bench, 0, &alloc::vec![0x55; memory.size() as usize]);
    }
    driver
        .bench
        .receive(0, &[(&frame(60), device_kit::platform::RxFlags::empty())]);
    driver.bench.set_link(0, false);
    check_eq(
        "the buffer",
        driver.read(buffer, 256),
        alloc::vec![0xee; 256],
    )?;
    for memory in queues {
        let found = driver.read(memory.pages[0], 4096);
        check_eq("a queue's memory", found, alloc::vec![0x55; 4096])?;
    }
    Ok(())
}
