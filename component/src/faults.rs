//! Seeded faults, for a test-only build of the component: the feature `faults`.
//!
//! They are met at fixed places of every send queue, by the absolute position of
//! an entry, so that a fresh instance which goes on there meets the same fault
//! again.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use crate::bnic::batch::List;
use crate::gdma::caution::Caution;
use crate::gdma::wq::Wq;
use device_kit::platform::{Level, Platform, Segment};

/// The bytes of a send queue from one fault to the next.
const DISTANCE: u32 = 1 << 17;

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

/// Who meets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// Whoever works on the entry.
    Recurring,
    /// An instance that is not cautious: it has gone once it crashed one.
    Once,
}

/// In the order in which a queue meets them, recurring and then once, over and
/// over.
const FAULTS: [Fault; 5] = [
    Fault::Trap,
    Fault::Loop,
    Fault::Grow,
    Fault::Corrupt,
    Fault::Garbage,
];

/// The fault of the entry from `position` to `end`, if it has one: the one that
/// holds a multiple of [`DISTANCE`] other than 0.
fn at(position: u32, end: u32) -> Option<(Fault, Flavour)> {
    let number = end.wrapping_sub(1) / DISTANCE;
    if number == 0 || number * DISTANCE < position {
        return None;
    }
    let index = number as usize - 1;
    let flavour = [Flavour::Recurring, Flavour::Once][index % 2];
    Some((FAULTS[index / 2 % FAULTS.len()], flavour))
}

/// The device has taken the entry from `position` to `end` of a send queue into
/// a batch, which has `segments` so far.
pub fn meet(
    platform: &mut impl Platform,
    (wq, caution): (&mut Wq, &Caution),
    (position, end): (u32, u32),
    segments: &mut List<Segment>,
) {
    let Some((fault, flavour)) = at(position, end) else {
        return;
    };
    if flavour == Flavour::Once && caution.is_on() {
        return;
    }
    platform.log(
        Level::Warn,
        format_args!("seeded fault {fault:?} {flavour:?} at {position:#x}"),
    );
    match fault {
        Fault::Trap => trap(),
        Fault::Loop => loop_for_ever(),
        Fault::Grow => grow_for_ever(),
        Fault::Corrupt => corrupt(wq, position),
        Fault::Garbage => {
            let _ = segments.push(Segment {
                address: u64::MAX,
                length: u32::MAX,
            });
        }
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
        let wanted = FAULTS.map(|fault| [(fault, Flavour::Recurring), (fault, Flavour::Once)]);
        for size in [32, 96, 160, 512] {
            let entries = (0..11 * DISTANCE / size).map(|entry| entry * size);
            let met: Vec<_> = entries
                .filter_map(|begin| at(begin, begin + size))
                .collect();
            assert_eq!(met, wanted.as_flattened(), "entries of {size} bytes");
        }
    }
}
