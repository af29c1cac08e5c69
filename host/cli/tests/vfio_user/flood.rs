//! Log lines that a VMM can cause.

use std::os::unix::net::UnixStream;

use crate::harness::{MSIX, Manatee, config_u32};
use crate::raw::{self, Raw};

/// The number of sessions or requests of a flood.
const MANY: usize = 2000;
/// The most lines that are logged for a flood, the start and the end.
const FEW: usize = 60;

fn is_contained(manatee: &Manatee) {
    assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);
    let log = manatee.log();
    assert!(log.lines().count() < FEW, "{log}");
    assert!(log.len() < FEW * 1024, "{} bytes", log.len());
}

#[test]
fn sessions_without_a_message_are_no_news() {
    let manatee = Manatee::start();
    let before = manatee.log();
    for _ in 0..MANY {
        drop(UnixStream::connect(manatee.socket()).unwrap());
    }
    assert_eq!(manatee.log(), before);
    is_contained(&manatee);
}

#[test]
fn sessions_that_come_reset_and_go_are_rationed() {
    let manatee = Manatee::start();
    for session in 0..MANY {
        let mut raw = Raw::connect(&manatee.socket());
        raw.ask(raw::RESET, &[]).unwrap();
        if session % 2 == 0 {
            raw.send(&[0; 20]).unwrap();
        }
        raw.finish();
    }
    is_contained(&manatee);
}

#[test]
fn sessions_with_memory_out_of_reach_are_rationed() {
    let manatee = Manatee::start();
    for _ in 0..MANY {
        let mut raw = Raw::connect(&manatee.socket());
        raw.ask(raw::DMA_MAP, &raw::dma_map(3, 0x10_0000, 0x1000))
            .unwrap();
        raw.finish();
    }
    let explained = manatee.log().matches("share=on").count();
    assert!((1..20).contains(&explained), "{explained} times");
    is_contained(&manatee);
}

#[test]
fn refusals_are_rationed() {
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    let nonsense = raw::words(&[20, 0, MSIX, 0, 1]);
    for _ in 0..MANY {
        raw.ask(raw::SET_IRQS, &nonsense).unwrap_err();
        // Cloud Hypervisor's client requires a body even in an error.
        let _ = raw.ask(
            raw::DMA_UNMAP,
            &[raw::words(&[24, 0]), vec![1; 16]].concat(),
        );
    }
    raw.finish();
    is_contained(&manatee);
}
