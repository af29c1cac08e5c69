//! Guest memory of several regions, for these tests and the endpoints'.

mod files;
mod huge;
mod model;
mod regions;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;

use std::ops::Range;
use std::sync::Arc;

use super::budget::Budget;
use super::guest::{Budgets, FEW};
use super::*;

/// Two pages of memory, ending where [`HIGH`] begins.
pub(crate) const LOW: u64 = 0x10_0000;
/// Memory after [`LOW`], of another file: an access that crosses the boundary is in both.
pub(crate) const HIGH: u64 = LOW + 2 * PAGE_SIZE;
/// A region of 256 KiB for larger packets.
pub(crate) const LARGE: u64 = 0x100_0000;
/// The size of [`LARGE`].
pub(crate) const LARGE_BYTES: u64 = 256 << 10;
/// A page that may only be read.
pub(crate) const READ_ONLY: u64 = 0x200_0000;
/// A page that came without a descriptor.
pub(crate) const UNREACHABLE: u64 = 0x300_0000;
/// No memory at all.
pub(crate) const NOWHERE: u64 = 0x400_0000;

/// Returns a file in memory.
pub(crate) fn memfd(size: u64) -> File {
    named("guest", size)
}

/// Returns a file in memory whose name identifies it.
fn named(name: &str, size: u64) -> File {
    let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// Creates memory of each kind.
pub(crate) fn guest_memory() -> GuestMemory {
    let mut memory = GuestMemory::new();
    let mut map = |address, size, writable| {
        memory.map(address, size, memfd(size), 0, writable).unwrap();
    };
    map(LARGE, LARGE_BYTES, true);
    map(HIGH, 2 * PAGE_SIZE, true);
    map(LOW, 2 * PAGE_SIZE, true);
    map(READ_ONLY, PAGE_SIZE, false);
    memory.map_unreachable(UNREACHABLE, PAGE_SIZE).unwrap();
    memory
}

/// Returns a segment.
pub(crate) fn segment(address: u64, length: u32) -> Segment {
    Segment { address, length }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn an_access_may_cross_regions() {
    let memory = guest_memory();
    let sent = pattern(3 * PAGE_SIZE as usize);
    let at = LOW + 100;
    memory.write(at, &sent).unwrap();
    let mut seen = vec![0; sent.len()];
    memory.read(at, &mut seen).unwrap();
    assert_eq!(sent, seen);
}

#[test]
fn a_write_that_does_not_fit_writes_nothing() {
    let memory = guest_memory();
    let last = HIGH + 2 * PAGE_SIZE - 1;
    assert_eq!(
        memory.write(last, &[1, 2]),
        Err(Fault {
            address: last,
            length: 2,
            access: Access::Write
        })
    );
    let mut byte = [9];
    memory.read(last, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}

#[test]
fn a_file_is_mapped_at_its_offset_and_shared() {
    let mut file = memfd(3 * PAGE_SIZE);
    let mut memory = GuestMemory::new();
    let shared = file.try_clone().unwrap();
    memory.map(0, PAGE_SIZE, shared, PAGE_SIZE, true).unwrap();
    memory.write(5, b"from us").unwrap();
    let mut seen = [0; 7];
    file.seek(SeekFrom::Start(PAGE_SIZE + 5)).unwrap();
    file.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"from us");
    file.seek(SeekFrom::Start(PAGE_SIZE)).unwrap();
    file.write_all(b"from the guest").unwrap();
    let mut seen = [0; 14];
    memory.read(0, &mut seen).unwrap();
    assert_eq!(&seen, b"from the guest");
    let page = memory.page(0).unwrap();
    assert_eq!(page.offset, PAGE_SIZE);
}

#[test]
fn reach_depends_on_the_region() {
    let memory = guest_memory();
    let may = |at, access| memory.check(at, 8, access).is_ok();
    assert!(may(READ_ONLY, Access::Read));
    assert!(!may(READ_ONLY, Access::Write));
    assert!(!may(UNREACHABLE, Access::Read));
    assert!(!may(UNREACHABLE, Access::Write));
    assert!(!may(NOWHERE, Access::Read));
    assert!(!may(LOW - 1, Access::Read));
    assert!(!may(u64::MAX, Access::Read));
    assert!(!may(u64::MAX - 7, Access::Read));
}

#[test]
fn a_copy_crosses_regions_on_both_sides() {
    let memory = guest_memory();
    let sent = pattern(5000);
    memory.write(LARGE, &sent).unwrap();
    memory.copy(LARGE, HIGH - 1000, 5000).unwrap();
    memory.copy(HIGH - 1000, LARGE + 9001, 5000).unwrap();
    let mut seen = vec![0; 5000];
    memory.read(LARGE + 9001, &mut seen).unwrap();
    assert_eq!(sent, seen);
    assert!(memory.copy(LARGE, READ_ONLY, 1).is_err());
    assert!(memory.copy(UNREACHABLE, LARGE, 1).is_err());
    assert!(memory.copy(READ_ONLY, LARGE, PAGE_SIZE).is_ok());
}

/// Returns both implementations of [`Calls`], or one if the kernel forbids io_uring.
fn both_ways() -> impl Iterator<Item = Calls> {
    Calls::batched().into_iter().chain([Calls::one_by_one()])
}

/// Returns both ends of a pipe, which do not block.
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    let (from, to) = std::io::pipe().unwrap();
    for end in [from.as_fd(), to.as_fd()] {
        rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).unwrap();
    }
    (from.into(), to.into())
}

#[test]
fn writes_take_what_lies_in_memory() {
    let memory = guest_memory();
    let (from, to) = pipe();
    let parts = [segment(HIGH - 3, 6), segment(READ_ONLY, 2)];
    memory.write(HIGH - 3, b"abcdef").unwrap();
    let mut outcomes = Vec::new();
    for mut calls in both_ways() {
        for count in [0, 1, 3, 4, 5, 64, 65, 130] {
            let own: Vec<String> = (0..count).map(|i| format!("<{i}>")).collect();
            let mut writes = calls.writes();
            for (index, own) in own.iter().enumerate() {
                let parts = parts.into_iter().take(index % 3);
                writes.add(own.as_bytes(), &memory, parts).unwrap();
            }
            writes.run(to.as_fd(), &mut outcomes);
            let expected = own.iter().enumerate().map(|(index, own)| {
                let behind = ["", "abcdef", "abcdef\0\0"][index % 3];
                format!("{own}{behind}")
            });
            let expected: Vec<String> = expected.collect();
            let lengths = expected.iter().map(|one| Ok(one.len()));
            assert!(outcomes.iter().copied().eq(lengths), "{outcomes:?}");
            let mut seen = vec![0; 4096];
            let length = rustix::io::read(&from, &mut seen).unwrap_or(0);
            assert_eq!(seen[..length], *expected.concat().as_bytes());
        }
    }
}

#[test]
fn each_write_has_an_outcome_of_its_own() {
    let memory = guest_memory();
    let (from, to) = pipe();
    let mut outcomes = Vec::new();
    drop(from);
    for mut calls in both_ways() {
        let mut writes = calls.writes();
        for _ in 0..10 {
            writes.add(b"nobody reads this", &memory, []).unwrap();
        }
        writes.run(to.as_fd(), &mut outcomes);
        assert_eq!(outcomes, [Err(Errno::PIPE); 10]);
    }
}

#[test]
fn reads_fill_buffers_in_order() {
    let (from, to) = pipe();
    let mut outcomes = Vec::new();
    for mut calls in both_ways() {
        for count in [1, 3, 4, 64, 100] {
            let sent = pattern(10 * count);
            rustix::io::write(&to, &sent).unwrap();
            // Two more than there are messages.
            let mut seen = vec![0; 10 * (count + 2)];
            calls.read(from.as_fd(), seen.chunks_mut(10), &mut outcomes);
            let (full, none) = outcomes.split_at(count);
            assert!(full.iter().all(|outcome| *outcome == Ok(10)));
            assert!(!none.is_empty());
            assert!(none.iter().all(|outcome| *outcome == Err(Errno::AGAIN)));
            assert_eq!(seen[..sent.len()], sent);
        }
    }
}

#[test]
fn ranges_are_checked_and_bounded() {
    let memory = guest_memory();
    let (from, to) = pipe();
    let mut outcomes = Vec::new();
    for mut calls in both_ways() {
        let mut writes = calls.writes();
        assert!(matches!(
            writes.add(b"?", &memory, [segment(LOW, 1), segment(UNREACHABLE, 1)]),
            Err(IoVecError::Fault(Fault {
                address: UNREACHABLE,
                access: Access::Read,
                ..
            }))
        ));
        let many = (0..).map(|i| segment(LOW + i % 16, 1));
        let fits = many.clone().take(Calls::MAX_RANGES - 1);
        assert_eq!(writes.add(b"!", &memory, fits), Ok(()));
        // An endless iterator of segments: it must stop by itself.
        assert_eq!(writes.add(b"?", &memory, many), Err(IoVecError::TooMany));
        // Refused calls are not made.
        writes.run(to.as_fd(), &mut outcomes);
        assert_eq!(outcomes, [Ok(Calls::MAX_RANGES)]);
        let mut seen = [0; 2 * Calls::MAX_RANGES];
        assert_eq!(rustix::io::read(&from, &mut seen), Ok(Calls::MAX_RANGES));
        assert_eq!(seen[0], b'!');
    }
}

#[test]
fn a_span_gives_what_is_left() {
    let parts = [segment(10, 5), segment(100, 1), segment(200, 10)];
    let left = |skip, most| -> Vec<_> {
        let span = Span::new(parts).advance(skip).limit(most);
        span.map(|s| (s.address, s.length)).collect()
    };
    assert_eq!(left(0, 99), [(10, 5), (100, 1), (200, 10)]);
    assert_eq!(left(3, 4), [(13, 2), (100, 1), (200, 1)]);
    assert_eq!(left(6, 1), [(200, 1)]);
    assert_eq!(left(16, 1), []);
    assert_eq!(left(99, 1), []);
    assert_eq!(left(0, 0), []);
}

#[test]
fn a_span_past_the_last_address_faults() {
    let memory = guest_memory();
    let span = || Span::new([segment(u64::MAX - 4, 64)]);
    assert!(span().read(&memory, &mut [0; 64]).is_err());
    assert!(span().advance(32).read(&memory, &mut [0; 1]).is_err());
    assert!(span().advance(5).write(&memory, &[0; 9]).is_err());
    let room = Span::new([segment(LARGE, 64)]);
    assert!(span().copy_to(&memory, room.clone()).is_err());
    assert!(room.copy_to(&memory, span()).is_err());
}

/// Cuts `length` bytes from `at` into segments of the given lengths.
fn cut(at: u64, length: usize, cuts: &[usize]) -> Vec<Segment> {
    let mut parts = Vec::new();
    let mut done = 0;
    for cut in cuts.iter().cycle() {
        let part = (*cut).min(length - done);
        if part == 0 {
            break;
        }
        parts.push(segment(at + done as u64, part as u32));
        done += part;
    }
    parts
}

proptest! {
    #[test]
    fn spans_copy_as_one_slice_does(
        length in 1usize..6000,
        room in 1usize..6000,
        skip in 0usize..100,
        from_cuts in prop::collection::vec(1usize..2000, 1..6),
        to_cuts in prop::collection::vec(1usize..2000, 1..6),
    ) {
        let memory = guest_memory();
        let sent = pattern(length);
        let from = cut(HIGH - 50, length, &from_cuts);
        let to = cut(LARGE + 3, room, &to_cuts);
        prop_assert_eq!(Span::new(from.clone()).write(&memory, &sent).unwrap(), length);
        let source = Span::new(from).advance(skip as u64);
        let copied = source.copy_to(&memory, Span::new(to.clone())).unwrap();
        let expected: Vec<u8> = sent.into_iter().skip(skip).take(room).collect();
        prop_assert_eq!(copied as usize, expected.len());
        let mut seen = vec![0; expected.len()];
        prop_assert_eq!(Span::new(to).read(&memory, &mut seen).unwrap(), seen.len());
        prop_assert_eq!(seen, expected);
    }
}
