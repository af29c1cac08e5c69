//! Seeded faults, for a test-only build of the component: the feature `faults`.
//!
//! They are met at fixed places of every send queue, by the absolute position of
//! an entry, so that a fresh instance which goes on there meets the same fault
//! again.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use crate::platform::{Level, Platform, Segment};
use crate::wq::Wq;

/// The bytes of a send queue from one fault to the next.
const DISTANCE: u32 = 1 << 20;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A trap.
    Trap,
    /// A call that does not return.
    Loop,
    /// Memory is taken until there is no more.
    Grow,
    /// The queue's own positions are overwritten.
    Corrupt,
    /// A batch for the host does not add up.
    Garbage,
}

/// In the order in which a queue meets them, over and over.
const FAULTS: [Fault; 5] = [
    Fault::Trap,
    Fault::Loop,
    Fault::Grow,
    Fault::Corrupt,
    Fault::Garbage,
];

/// The fault that the entry from `position` to `end` meets: the one that holds
/// a multiple of [`DISTANCE`] other than 0.
fn at(position: u32, end: u32) -> Option<Fault> {
    let number = end.wrapping_sub(1) / DISTANCE;
    let met = number > 0 && number * DISTANCE >= position;
    met.then(|| FAULTS[(number as usize - 1) % FAULTS.len()])
}

/// The device has taken the entry from `position` to `end` of a send queue into
/// a batch, which has `segments` so far.
pub fn meet(
    platform: &mut impl Platform,
    wq: &mut Wq,
    (position, end): (u32, u32),
    segments: &mut Vec<Segment>,
) {
    let Some(fault) = at(position, end) else {
        return;
    };
    platform.log(
        Level::Warn,
        format_args!("seeded fault at position {position:#x}: {fault:?}"),
    );
    match fault {
        Fault::Trap => trap(),
        Fault::Loop => loop_for_ever(),
        Fault::Grow => grow_for_ever(),
        Fault::Corrupt => corrupt(wq, position),
        Fault::Garbage => segments.push(Segment {
            address: u64::MAX,
            length: u32::MAX,
        }),
    }
}

// Functions of their own, so that a backtrace names them.

#[inline(never)]
fn trap() -> ! {
    panic!("as asked for")
}

#[inline(never)]
fn loop_for_ever() -> ! {
    loop {
        black_box(());
    }
}

#[inline(never)]
fn grow_for_ever() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
        black_box(&hoard);
    }
}

#[inline(never)]
fn corrupt(wq: &mut Wq, position: u32) {
    wq.complete_to(!position);
    wq.rewind_to(position ^ 0x5555_5555);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_multiple_is_met_once_however_entries_lie() {
        for size in [32, 96, 160, 512] {
            let met: Vec<Fault> = (0..12 * DISTANCE / size)
                .filter_map(|entry| at(entry * size, (entry + 1) * size))
                .collect();
            let wanted: Vec<Fault> = FAULTS.into_iter().cycle().take(11).collect();
            assert_eq!(met, wanted, "entries of {size} bytes");
        }
    }
}
