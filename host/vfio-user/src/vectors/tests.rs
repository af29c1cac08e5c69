//! When vectors signal their eventfds, and how often.

use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;

use super::*;

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

fn copy(fd: &OwnedFd) -> Foreign {
    Foreign::new(fd.try_clone().unwrap())
}

/// Returns how often the eventfd was signalled since the last call.
fn count(fd: &OwnedFd) -> u64 {
    let mut data = [0; 8];
    rustix::io::read(fd, &mut data).map_or(0, |_| u64::from_ne_bytes(data))
}

#[test]
fn raise_signals_its_eventfd_only() {
    let vectors = Vectors::new(2);
    let (a, b) = (eventfd(), eventfd());
    vectors.assign(0, vec![copy(&a), copy(&b)]).unwrap();
    vectors.raise(1);
    vectors.raise(1);
    vectors.raise(2);
    assert_eq!((count(&a), count(&b)), (0, 2));
}

#[test]
fn what_was_raised_too_early_is_delivered_once() {
    let vectors = Vectors::new(1);
    vectors.raise(0);
    vectors.raise(0);
    let fd = eventfd();
    vectors.assign(0, vec![copy(&fd)]).unwrap();
    assert_eq!(count(&fd), 1);
    vectors.mask(0..1);
    vectors.raise(0);
    assert_eq!(count(&fd), 0);
    vectors.unmask(0..1);
    vectors.unmask(0..1);
    assert_eq!(count(&fd), 1);
}

#[test]
fn reset_deassign_and_clear_forget_what_is_pending() {
    for forget in [
        |v: &Vectors| v.forget_pending(),
        |v: &Vectors| v.deassign(0..1),
        |v: &Vectors| v.clear(),
    ] {
        let vectors = Vectors::new(1);
        vectors.raise(0);
        forget(&vectors);
        let fd = eventfd();
        vectors.assign(0, vec![copy(&fd)]).unwrap();
        assert_eq!(count(&fd), 0);
    }
}

#[test]
fn doorbells_raise_no_faster_than_they_may_and_lose_nothing() {
    let vectors = Vectors::new(2);
    let (a, b) = (eventfd(), eventfd());
    vectors.assign(0, vec![copy(&a), copy(&b)]).unwrap();
    let begun = Instant::now();
    let doorbell = |vector, after| vectors.raise_moderated(vector, begun + after);
    doorbell(0, Duration::ZERO);
    assert_eq!((count(&a), vectors.next_late()), (1, None), "the first");
    doorbell(0, HOLD / 4);
    doorbell(0, HOLD / 2);
    doorbell(1, HOLD / 2);
    assert_eq!((count(&a), count(&b)), (0, 1));
    assert_eq!(vectors.next_late(), Some(begun + HOLD));
    vectors.deliver_late(begun + HOLD / 2);
    assert_eq!(count(&a), 0, "too early");
    vectors.deliver_late(begun + HOLD);
    assert_eq!((count(&a), vectors.next_late()), (1, None));
    doorbell(0, 2 * HOLD);
    assert_eq!((count(&a), vectors.next_late()), (1, None));
}

#[test]
fn what_is_held_back_goes_along_with_the_next_or_before_its_eventfd_goes() {
    let vectors = Vectors::new(1);
    let fd = eventfd();
    vectors.assign(0, vec![copy(&fd)]).unwrap();
    let begun = Instant::now();
    let hold_back = || {
        vectors.raise_moderated(0, begun);
        count(&fd);
        vectors.raise_moderated(0, begun);
        assert_eq!(count(&fd), 0);
    };
    hold_back();
    vectors.raise(0);
    assert_eq!(count(&fd), 1);
    vectors.deliver_late(begun + Duration::from_secs(3600));
    assert_eq!((count(&fd), vectors.next_late()), (0, None));
    hold_back();
    vectors.hurry();
    assert_eq!((count(&fd), vectors.next_late()), (1, None));
    vectors.hurry();
    assert_eq!(count(&fd), 0);
    hold_back();
    vectors.deassign(0..1);
    assert_eq!(count(&fd), 1);
    vectors.assign(0, vec![copy(&fd)]).unwrap();
    hold_back();
    vectors.forget_pending();
    vectors.deliver_late(begun + Duration::from_secs(3600));
    assert_eq!(count(&fd), 0);
}

#[test]
fn only_what_a_doorbell_came_to_is_moderated() {
    let vectors = Vectors::new(1);
    let fd = eventfd();
    vectors.assign(0, vec![copy(&fd)]).unwrap();
    let late = Instant::now() + Duration::from_secs(3600);
    vectors.0.slots[0].lock().delivered = Some(late);
    vectors.raise_late(0);
    assert_eq!(count(&fd), 0);
    vectors.raise(0);
    assert_eq!(count(&fd), 1);
}

#[test]
fn only_eventfds_are_taken() {
    let vectors = Vectors::new(2);
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let fd = eventfd();
    let refused = vectors.assign(0, vec![copy(&fd), Foreign::new(far.into())]);
    assert!(matches!(refused, Err(AssignError::NotAnEventFd(1))));
    vectors.raise(0);
    assert_eq!(count(&fd), 0, "all or none");
    drop(near);
}

#[test]
fn full_blocking_eventfd_does_not_block() {
    let vectors = Vectors::new(1);
    let fd = rustix::event::eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    vectors.assign(0, vec![copy(&fd)]).unwrap();
    vectors.raise(0);
    vectors.raise(0);
    assert_eq!(count(&fd), u64::MAX, "what the kernel does to a full one");
    vectors.raise(0);
    assert_eq!(count(&fd), 1);
}

#[test]
fn what_waits_is_seen_to_be_pending() {
    let vectors = Vectors::new(2);
    let fd = eventfd();
    vectors.raise(0);
    let pending = || [0, 1, 2].map(|vector| vectors.is_pending(vector));
    assert_eq!(pending(), [true, false, false], "without an eventfd");
    vectors.assign(0, vec![copy(&fd)]).unwrap();
    assert_eq!(pending(), [false; 3]);
    vectors.mask(0..1);
    vectors.raise_late(0);
    assert_eq!(pending(), [true, false, false]);
    vectors.unmask(0..1);
    vectors.hurry();
    assert_eq!((pending(), count(&fd)), ([false; 3], 2));
}

#[test]
fn ranges_beyond_the_table_are_harmless() {
    let vectors = Vectors::new(2);
    vectors.unmask(1..u32::MAX);
    vectors.raise(u16::MAX);
    vectors.mask(5..9);
    vectors.assign(2, vec![copy(&eventfd())]).unwrap();
    assert_eq!(vectors.count(), 2);
}
