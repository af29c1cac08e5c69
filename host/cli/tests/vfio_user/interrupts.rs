//! `SET_IRQS`, and the eventfds' signals.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::EventfdFlags;
use vfio_user::Client;

use crate::harness::{MSIX, Manatee, readable};
use crate::raw::{self, Raw};

pub const NONE: u32 = 1;
const BOOL: u32 = 2;
pub const EVENTFD: u32 = 4;
pub const MASK: u32 = 8;
pub const UNMASK: u32 = 16;
pub const TRIGGER: u32 = 32;

pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

/// Returns how often it was signalled, and resets it. The answer to a request comes after its
/// effects, so there is nothing to wait for.
pub fn taken(fd: &OwnedFd) -> u64 {
    let mut data = [0; 8];
    rustix::io::read(fd, &mut data).map_or(0, |_| u64::from_ne_bytes(data))
}

pub fn set(client: &mut Client, flags: u32, start: u32, count: u32) {
    client.set_irqs(MSIX, flags, start, count, &[]).unwrap();
}

pub fn assign(client: &mut Client, start: u32, fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    client
        .set_irqs(MSIX, EVENTFD | TRIGGER, start, fds.len() as u32, &fds)
        .unwrap();
}

#[test]
fn vectors_fire_their_own_eventfd() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let fds: Vec<_> = (0..16).map(|_| eventfd()).collect();
    assign(&mut client, 1, &fds.iter().collect::<Vec<_>>());
    set(&mut client, NONE | TRIGGER, 3, 2);
    assert!(readable(&fds[2], Duration::from_secs(60)));
    let counts: Vec<_> = fds.iter().map(taken).collect();
    assert_eq!(counts, [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn masked_vector_keeps_its_interrupt() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let fd = eventfd();
    assign(&mut client, 5, &[&fd]);
    set(&mut client, NONE | MASK, 5, 1);
    set(&mut client, NONE | TRIGGER, 5, 1);
    set(&mut client, NONE | TRIGGER, 5, 1);
    assert_eq!(taken(&fd), 0);
    set(&mut client, NONE | UNMASK, 5, 1);
    assert_eq!(taken(&fd), 1);
}

#[test]
fn eventfds_are_replaced_and_taken_away() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let (first, second) = (eventfd(), eventfd());
    assign(&mut client, 0, &[&first]);
    assign(&mut client, 0, &[&second]);
    set(&mut client, NONE | TRIGGER, 0, 1);
    assert_eq!((taken(&first), taken(&second)), (0, 1));
    // Without descriptors: the vector's eventfd is removed.
    set(&mut client, EVENTFD | TRIGGER, 0, 1);
    set(&mut client, NONE | TRIGGER, 0, 1);
    assert_eq!(taken(&second), 0);
    assign(&mut client, 0, &[&second]);
    assert_eq!(taken(&second), 1, "the interrupt that was raised meanwhile");
    // Count 0: all are removed.
    set(&mut client, NONE | TRIGGER, 0, 0);
    set(&mut client, NONE | TRIGGER, 0, 1);
    assert_eq!(taken(&second), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    let set = |index, flags, start, count| raw::words(&[20, flags, index, start, count]);
    for body in [
        set(MSIX, NONE | TRIGGER, 5000, 1),
        set(MSIX, NONE | MASK, u32::MAX, u32::MAX),
        set(MSIX, NONE, 0, 1),
        set(0, NONE | TRIGGER, 0, 1),
        set(77, NONE | TRIGGER, 0, 1),
        set(MSIX, BOOL | TRIGGER, 0, 1),
        set(MSIX, EVENTFD | MASK, 0, 1),
    ] {
        assert!(raw.ask(raw::SET_IRQS, &body).is_err(), "{body:?}");
    }
    assert!(
        raw.ask(raw::GET_IRQ_INFO, &raw::words(&[16, 0, 9, 0]))
            .is_err()
    );
    assert!(
        raw.ask(raw::SET_IRQS, &set(0, NONE | TRIGGER, 0, 0))
            .is_ok(),
        "nothing to turn off"
    );
    raw.ask(raw::RESET, &[]).unwrap();
}
