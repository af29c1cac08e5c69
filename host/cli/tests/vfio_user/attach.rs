//! The device as a VMM sees it.

use std::os::fd::AsRawFd;

use vfio_user::Client;

use crate::harness::{CONFIG, MSIX, Manatee, config_u16, config_u32, memfd};
use crate::raw::{self, Raw};

const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 0b110;
/// Offsets in BAR 0 of the GDMA registers (linux `net/mana/gdma.h`,
/// `GDMA_REG_DB_PAGE_OFFSET` and `GDMA_REG_DB_PAGE_SIZE`).
const DOORBELL_OFFSET: u64 = 8;
const DOORBELL_SIZE: u64 = 0x10;

fn start_device(client: &mut Client) {
    client
        .region_write(CONFIG, COMMAND, &MEMORY_AND_MASTER.to_le_bytes())
        .unwrap();
    assert_eq!(config_u16(client, COMMAND), MEMORY_AND_MASTER);
}

fn size(client: &Client, region: u32) -> u64 {
    client.region(region).unwrap().size
}

#[test]
fn device_is_a_mana_adapter() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
    assert_eq!(
        config_u32(&mut client, 8) >> 8,
        0x02_0000,
        "an Ethernet controller"
    );
    assert_eq!(size(&client, CONFIG), 4096);
    assert_eq!(
        (size(&client, 6), size(&client, 8)),
        (0, 0),
        "neither ROM nor VGA"
    );
    assert!(size(&client, 0) >= 0x2000);
}

#[test]
fn bars_have_the_sizes_of_their_regions() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    for bar in [0, 2, 4] {
        let offset = 0x10 + 4 * u64::from(bar);
        client.region_write(CONFIG, offset, &[0xff; 8]).unwrap();
        let mut mask = [0; 8];
        client.region_read(CONFIG, offset, &mut mask).unwrap();
        let mask = u64::from_le_bytes(mask) & !0xf;
        assert_eq!(mask.wrapping_neg(), size(&client, bar), "BAR {bar}");
        assert_eq!(size(&client, bar + 1), 0);
    }
}

#[test]
fn registers_are_read_and_the_absent_read_as_ones() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    start_device(&mut client);
    let mut wide = [0; 8];
    client.region_read(0, DOORBELL_OFFSET, &mut wide).unwrap();
    let doorbells = u64::from_le_bytes(wide);
    let mut narrow = [0; 4];
    client.region_read(0, DOORBELL_SIZE, &mut narrow).unwrap();
    let page = u32::from_le_bytes(narrow);
    assert!(page >= 4096 && page.is_power_of_two(), "{page:#x}");
    assert!(
        doorbells + u64::from(page) <= size(&client, 0),
        "{doorbells:#x}"
    );

    for (region, offset) in [(1, 0), (6, 0), (8, 0), (0, 1 << 40), (CONFIG, 4096)] {
        let mut data = [0; 4];
        client.region_read(region, offset, &mut data).unwrap();
        assert_eq!(data, [0xff; 4], "region {region} at {offset:#x}");
        client.region_write(region, offset, &data).unwrap();
    }
}

#[test]
fn interrupts_are_msix_only() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let counts: Vec<_> = (0..5)
        .map(|i| client.get_irq_info(i).unwrap().count)
        .collect();
    let table_size = (config_u16(&mut client, 0x82) & 0x7ff) + 1;
    assert_eq!(counts, [0, 0, u32::from(table_size), 1, 1]);
    assert_eq!(
        client.get_irq_info(MSIX).unwrap().flags & 1,
        1,
        "by eventfd"
    );
}

#[test]
fn memory_is_shared_and_taken_away() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let memory = memfd(0x20_0000);
    client.dma_map(0, 0, 0x10_0000, memory.as_raw_fd()).unwrap();
    client
        .dma_map(0x10_0000, 0x1_0000_0000, 0x10_0000, memory.as_raw_fd())
        .unwrap();
    client.dma_unmap(0, 0x10_0000).unwrap();
    client.dma_map(0, 0, 0x10_0000, memory.as_raw_fd()).unwrap();
    // An overlapping region is refused with a message, without other effects.
    client
        .dma_map(0, 0x8_0000, 0x10_0000, memory.as_raw_fd())
        .unwrap();
    client.dma_unmap(0xdead_0000, 0x1000).unwrap();
    let log = manatee.log();
    assert!(log.contains("overlaps"), "{log}");
    assert!(log.contains("0xdead0000"), "{log}");
    assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
}

#[test]
fn memory_without_descriptor_is_explained_once() {
    const READ: u32 = 1;
    const READ_WRITE: u32 = 3;
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    raw.ask(raw::DMA_MAP, &raw::dma_map(READ, 0xc_0000, 0x1000))
        .unwrap();
    assert!(
        !manatee.log().contains("share=on"),
        "a read-only area is no reason"
    );
    raw.ask(raw::DMA_MAP, &raw::dma_map(READ_WRITE, 0x10_0000, 0x1000))
        .unwrap();
    raw.ask(raw::DMA_MAP, &raw::dma_map(READ_WRITE, 0x20_0000, 0x1000))
        .unwrap();
    assert_eq!(manatee.log().matches("share=on").count(), 1);
    // All at once: by a flag, without a range.
    let all = raw::dma_unmap(4, 0, 0);
    raw.ask(raw::DMA_UNMAP, &all).unwrap();
    raw.ask(raw::DMA_UNMAP, &all).unwrap();
    raw.ask(raw::DMA_MAP, &raw::dma_map(READ_WRITE, 0x10_0000, 0x1000))
        .unwrap();
    raw.finish();

    let mut raw = Raw::connect(&manatee.socket());
    raw.ask(raw::DMA_MAP, &raw::dma_map(READ_WRITE, 0x10_0000, 0x1000))
        .unwrap();
    assert_eq!(
        manatee.log().matches("share=on").count(),
        2,
        "again for the next VMM"
    );
}

#[test]
fn reset_returns_to_power_on() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    start_device(&mut client);
    client
        .region_write(CONFIG, 0x10, &0xfe00_0000_u32.to_le_bytes())
        .unwrap();
    client.reset().unwrap();
    assert_eq!(config_u16(&mut client, COMMAND), 0);
    assert_eq!(config_u32(&mut client, 0x10), 4);
    start_device(&mut client);
}

#[test]
fn writes_without_reply_are_carried_out_in_order() {
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    for value in 0..=255 {
        let body = [raw::region_access(0x3c, CONFIG, 1), vec![value]].concat();
        raw.send(&raw::message(raw::REGION_WRITE, raw::NO_REPLY, &body))
            .unwrap();
    }
    let answer = raw
        .ask(raw::REGION_READ, &raw::region_access(0x3c, CONFIG, 1))
        .unwrap();
    assert_eq!(answer.last(), Some(&255));
}

#[test]
fn next_vmm_finds_a_fresh_device() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let memory = memfd(0x10_0000);
    for _ in 0..3 {
        start_device(&mut client);
        client.dma_map(0, 0, 0x10_0000, memory.as_raw_fd()).unwrap();
        drop(client);
        client = manatee.attach();
        assert_eq!(config_u16(&mut client, COMMAND), 0);
    }
    assert!(
        !manatee.log().contains("overlaps"),
        "memory was unmapped each time"
    );
}

/// The device control register of the PCI Express capability.
const DEVICE_CONTROL: u64 = 0x48;
const INITIATE_RESET: u16 = 1 << 15;

#[test]
fn function_level_reset_is_offered_and_resets_everything() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    assert_ne!(config_u32(&mut client, 0x44) & 1 << 28, 0, "DEVCAP says so");
    for (at, data) in [
        (DEVICE_CONTROL, &INITIATE_RESET.to_le_bytes()[..]),
        (
            DEVICE_CONTROL,
            &u32::from(INITIATE_RESET | 0x10).to_le_bytes(),
        ),
        (DEVICE_CONTROL + 1, &[0x80]),
    ] {
        start_device(&mut client);
        client.region_write(CONFIG, 0x3c, &[9]).unwrap();
        client.region_write(CONFIG, at, data).unwrap();
        assert_eq!(config_u16(&mut client, COMMAND), 0);
        assert_eq!(config_u16(&mut client, 0x3c), 0, "the interrupt line");
        assert_eq!(config_u16(&mut client, DEVICE_CONTROL), 0x2810);
    }
    // Other bits of the register reset nothing.
    start_device(&mut client);
    client
        .region_write(CONFIG, DEVICE_CONTROL, &[0xff, 0x7f])
        .unwrap();
    assert_eq!(config_u16(&mut client, COMMAND), MEMORY_AND_MASTER);
}
