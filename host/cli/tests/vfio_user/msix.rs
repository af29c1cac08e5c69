//! Interrupts that are masked, and pending bits.

use vfio_user::Client;

use crate::harness::{CONFIG, MSIX, Manatee, config_u16, config_u32};
use crate::interrupts::{MASK, NONE, TRIGGER, UNMASK, assign, eventfd, set, taken};

const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: [u8; 2] = [6, 0];
const MSIX_CONTROL: u64 = 0x82;
const MSIX_TABLE: u64 = 0x84;
const MSIX_PBA: u64 = 0x88;
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// A vector in the second byte of the pending bits.
const VECTOR: u32 = 9;

fn control(client: &mut Client, bits: u16) {
    let table = config_u16(client, MSIX_CONTROL) & 0x7ff;
    let value = (table | bits).to_le_bytes();
    client.region_write(CONFIG, MSIX_CONTROL, &value).unwrap();
}

/// Returns the pending bits of the first 64 vectors.
fn pending(client: &mut Client) -> u64 {
    let place = config_u32(client, MSIX_PBA);
    let mut bits = [0; 8];
    client
        .region_read(place & 7, u64::from(place & !7), &mut bits)
        .unwrap();
    u64::from_le_bytes(bits)
}

fn mask_in_table(client: &mut Client, masked: bool) {
    let place = config_u32(client, MSIX_TABLE);
    let entry = u64::from(place & !7) + 16 * u64::from(VECTOR);
    let message = 0xfee0_0000_u64.to_le_bytes();
    client.region_write(place & 7, entry, &message).unwrap();
    let mask = u32::from(masked).to_le_bytes();
    client.region_write(place & 7, entry + 12, &mask).unwrap();
}

#[test]
fn what_is_held_back_is_pending_and_comes_once() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    client
        .region_write(CONFIG, COMMAND, &MEMORY_AND_MASTER)
        .unwrap();
    let fd = eventfd();
    assign(&mut client, VECTOR, &[&fd]);
    control(&mut client, ENABLE);
    let fire = |client: &mut Client| set(client, NONE | TRIGGER, VECTOR, 1);
    fire(&mut client);
    assert_eq!((pending(&mut client), taken(&fd)), (0, 1));

    type Step = fn(&mut Client);
    let ways: [(&str, Step, Step); 4] = [
        (
            "the function mask",
            |client| control(client, ENABLE | MASK_ALL),
            |client| control(client, ENABLE),
        ),
        (
            "not being enabled",
            |client| control(client, 0),
            |client| control(client, ENABLE),
        ),
        (
            "the mask of its entry",
            |client| mask_in_table(client, true),
            |client| mask_in_table(client, false),
        ),
        (
            "the mask of the VMM",
            |client| client.set_irqs(MSIX, NONE | MASK, VECTOR, 1, &[]).unwrap(),
            |client| {
                let unmask = NONE | UNMASK;
                client.set_irqs(MSIX, unmask, VECTOR, 1, &[]).unwrap();
            },
        ),
    ];
    for (way, hold, release) in ways {
        hold(&mut client);
        fire(&mut client);
        fire(&mut client);
        // A read waits for earlier writes to BARs, which are acknowledged before they are
        // carried out.
        assert_eq!(pending(&mut client), 1 << VECTOR, "{way}");
        assert_eq!(taken(&fd), 0, "{way}");
        release(&mut client);
        assert_eq!((pending(&mut client), taken(&fd)), (0, 1), "{way}");
        release(&mut client);
        assert_eq!((pending(&mut client), taken(&fd)), (0, 0), "{way}");
    }
}

#[test]
fn what_is_pending_goes_with_a_reset_and_with_its_vmm() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    for reset in [true, false] {
        control(&mut client, ENABLE | MASK_ALL);
        set(&mut client, NONE | TRIGGER, VECTOR, 1);
        if reset {
            client.reset().unwrap();
        } else {
            drop(client);
            client = manatee.attach();
        }
        client
            .region_write(CONFIG, COMMAND, &MEMORY_AND_MASTER)
            .unwrap();
        assert_eq!(pending(&mut client), 0);
        let fd = eventfd();
        assign(&mut client, VECTOR, &[&fd]);
        control(&mut client, ENABLE);
        assert_eq!(taken(&fd), 0);
    }
}
