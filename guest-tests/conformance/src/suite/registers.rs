//! The registers of BAR 0.

use mana_wire::queue::{RingDoorbell, doorbell};

use crate::driver::Driver;
use crate::driver::registers::RegisterMap;
use crate::failure::{Outcome, check, check_eq};

super::declare! { "registers":
    version_is_one = "openvmm gdma_defs: RegMap",
    doorbell_page_is_a_page = "gdma_main.c: mana_gd_init_vf_regs",
    doorbells_lie_behind_the_registers = "gdma_main.c: mana_gd_init_vf_regs",
    shared_memory_is_aligned = "shm_channel.c: mana_smc_setup_hwc",
    reads_of_every_width_agree = "gdma_main.c: mana_gd_r32, mana_gd_r64",
    unknown_registers_read_as_zero = "WIT: device.read-register",
    registers_cannot_be_written = "gdma_main.c: mana_gd_init_vf_regs",
    reads_beyond_the_map_are_harmless = "WIT: device.read-register",
    writes_of_odd_widths_are_ignored = "WIT: device.write-register",
    doorbells_come_in_halves_too = "gdma_main.c: mana_gd_ring_doorbell (writeq on 32-bit machines)",
    half_a_doorbell_rings_nothing = "gdma_main.c: mana_gd_ring_doorbell (writeq on 32-bit machines)",
    halves_of_different_doorbells_do_not_join = "gdma_main.c: mana_gd_ring_doorbell (writeq on 32-bit machines)",
    unknown_doorbells_are_ignored = "gdma_main.c: mana_gd_ring_doorbell",
    receive_client_data_doorbell_is_accepted = "openvmm gdma_defs: DB_RQ_CLIENT_DATA",
}

fn version_is_one(driver: &mut Driver<'_>) -> Outcome {
    let (major, ..) = driver.registers().version;
    check_eq("major version of the register map", major, 1)
}

fn doorbell_page_is_a_page(driver: &mut Driver<'_>) -> Outcome {
    check_eq(
        "size of a doorbell page",
        driver.registers().doorbell_page,
        4096,
    )
}

fn doorbells_lie_behind_the_registers(driver: &mut Driver<'_>) -> Outcome {
    let map = driver.registers();
    check(
        map.doorbells >= 4096 && map.doorbells.is_multiple_of(4096),
        format_args!("doorbells at {:#x} are no page of their own", map.doorbells),
    )
}

fn shared_memory_is_aligned(driver: &mut Driver<'_>) -> Outcome {
    let map = driver.registers();
    let fits = map.shared_memory.is_multiple_of(4) && map.shared_memory + 32 <= map.doorbells;
    check(
        fits && map.shared_memory > RegisterMap::SHARED_MEMORY,
        format_args!("the shared-memory channel is at {:#x}", map.shared_memory),
    )
}

fn reads_of_every_width_agree(driver: &mut Driver<'_>) -> Outcome {
    for offset in (0..0x28).step_by(8) {
        let whole = driver.bench.read_register(offset, 8);
        for width in [1, 2, 4] {
            let mut joined = 0;
            for part in (0..8).step_by(usize::from(width)) {
                let value = driver.bench.read_register(offset + part, width);
                joined |= value << (8 * part);
            }
            check_eq(
                format_args!("{width}-byte reads at {offset:#x}"),
                joined,
                whole,
            )?;
        }
    }
    Ok(())
}

fn unknown_registers_read_as_zero(driver: &mut Driver<'_>) -> Outcome {
    let doorbells = driver.registers().doorbells;
    for offset in [0x100, 0x800, 0xff8, doorbells, doorbells + 0x400] {
        let value = driver.bench.read_register(offset, 8);
        check_eq(format_args!("register {offset:#x}"), value, 0)?;
    }
    Ok(())
}

fn registers_cannot_be_written(driver: &mut Driver<'_>) -> Outcome {
    let before = RegisterMap::read(driver.bench);
    for offset in (0..0x28).step_by(4) {
        driver.bench.write_register(offset, 4, 0xffff_ffff);
    }
    let after = RegisterMap::read(driver.bench);
    check_eq("the register map", after, before)
}

fn reads_beyond_the_map_are_harmless(driver: &mut Driver<'_>) -> Outcome {
    let map = driver.registers();
    let last = driver.bench.read_register(map.shared_memory + 28, 4);
    let over = driver.bench.read_register(map.shared_memory + 28, 8);
    check_eq("what follows the aperture", over >> 32, 0)?;
    check_eq("the aperture's last word", over, last)?;
    check_eq(
        "the last register",
        driver.bench.read_register(0x1fff, 1),
        0,
    )
}

fn writes_of_odd_widths_are_ignored(driver: &mut Driver<'_>) -> Outcome {
    let base = driver.registers().doorbells;
    for width in [1, 2] {
        driver.bench.write_register(base, width, 0xff);
    }
    driver.start_and_open()?.works(driver)
}

fn eq_doorbell(id: u32, tail: u32) -> u64 {
    RingDoorbell::new()
        .with_id(id)
        .with_tail(tail)
        .with_arm(true)
        .into_bits()
}

fn doorbells_come_in_halves_too(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(3, 4096)?;
    driver.test_eq(eq.id)?;
    driver.test_eq(eq.id)?;
    driver.expect_interrupts(3, 1)?;
    eq.next(driver)?;
    let bits = eq_doorbell(eq.id, eq.ring.tail());
    let at = driver.registers().doorbells + doorbell::EQ;
    driver.bench.write_register(at, 4, bits & 0xffff_ffff);
    driver.expect_interrupts(3, 0)?;
    driver.bench.write_register(at + 4, 4, bits >> 32);
    driver.expect_interrupts(3, 1)
}

fn half_a_doorbell_rings_nothing(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(3, 4096)?;
    driver.test_eq(eq.id)?;
    driver.test_eq(eq.id)?;
    driver.expect_interrupts(3, 1)?;
    eq.next(driver)?;
    let bits = eq_doorbell(eq.id, eq.ring.tail());
    let at = driver.registers().doorbells + doorbell::EQ;
    driver.bench.write_register(at + 4, 4, bits >> 32);
    driver.expect_interrupts(3, 0)
}

fn halves_of_different_doorbells_do_not_join(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(3, 4096)?;
    driver.test_eq(eq.id)?;
    driver.test_eq(eq.id)?;
    driver.expect_interrupts(3, 1)?;
    eq.next(driver)?;
    let bits = eq_doorbell(eq.id, eq.ring.tail());
    let base = driver.registers().doorbells;
    let low = bits & 0xffff_ffff;
    for (first, second) in [(doorbell::CQ, doorbell::EQ), (doorbell::EQ, doorbell::CQ)] {
        driver.bench.write_register(base + first, 4, low);
        let second = base + second + 4;
        driver.bench.write_register(second, 4, bits >> 32);
        driver.expect_interrupts(3, 0)?;
    }
    Ok(())
}

fn unknown_doorbells_are_ignored(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for offset in [0x10, 0x3f8, 0x410, 0x810, 0xff0] {
        driver.doorbell(offset, u64::MAX);
        driver.doorbell(offset, 0);
    }
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    vport.works(driver)
}

fn receive_client_data_doorbell_is_accepted(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.doorbell(doorbell::RQ_CLIENT_DATA, vport.rx.wq.id.into());
    check_eq("interrupts", driver.take_all_interrupts(), [].into())?;
    vport.works(driver)
}
