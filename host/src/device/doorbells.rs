//! The last value of each doorbell, for a fresh instance to go on from.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::contract::{DoorbellRange as Range, RegisterWrite};

/// The most doorbells that are kept: more than a device has queues.
const MAX_DOORBELLS: usize = 4096;

/// What rings where: BAR, offset, and the bits of the value that tell one
/// doorbell from another.
type Key = (u8, u64, u64);

/// The doorbells of a device.
#[derive(Clone, Debug, Default)]
pub struct Doorbells {
    ranges: Vec<Range>,
    last: HashMap<Key, u64, RandomState>,
    /// BAR, offset and value of a lower half whose upper one has not come.
    low: Option<(u8, u64, u64)>,
}

impl Doorbells {
    /// Keeps doorbells in these ranges.
    pub fn new(ranges: &[Range]) -> Self {
        Self {
            ranges: ranges.to_vec(),
            last: HashMap::default(),
            low: None,
        }
    }

    /// Notes a write of so many bytes. Returns whether it belongs to a doorbell.
    pub fn note(&mut self, bar: u8, offset: u64, width: usize, value: u64) -> bool {
        match width {
            8 => self.note_whole(bar, offset, value),
            4 => {
                self.note_half(bar, offset, value);
                self.range(bar, offset).is_some()
            }
            _ => false,
        }
    }

    fn range(&self, bar: u8, offset: u64) -> Option<&Range> {
        let inside =
            |range: &&Range| range.bar == bar && offset.wrapping_sub(range.offset) < range.length;
        self.ranges.iter().find(inside)
    }

    /// Notes a write of 4 bytes, which may be half of a doorbell: the upper one
    /// rings, right behind the lower one.
    fn note_half(&mut self, bar: u8, offset: u64, half: u64) {
        if offset.is_multiple_of(8) {
            self.low = Some((bar, offset, half & 0xffff_ffff));
            return;
        }
        let before = (bar, offset - 4);
        if let Some((bar, offset, low)) = self.low.take().filter(|low| (low.0, low.1) == before) {
            self.note_whole(bar, offset, low | half << 32);
        }
    }

    /// Notes a write of 8 bytes, if it is to a doorbell. A guest that rings
    /// more than there are is not kept up with.
    fn note_whole(&mut self, bar: u8, offset: u64, value: u64) -> bool {
        let Some(range) = self.range(bar, offset) else {
            return false;
        };
        let key = (bar, offset, value & range.key);
        if let Some(last) = self.last.get_mut(&key) {
            *last = value;
        } else if self.last.len() < MAX_DOORBELLS {
            self.last.insert(key, value);
        }
        true
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.last.clear();
    }

    /// The last values, in no order.
    pub fn writes(&self) -> Vec<RegisterWrite> {
        let writes = self
            .last
            .iter()
            .map(|((bar, offset, _), value)| RegisterWrite {
                bar: *bar,
                offset: *offset,
                value: *value,
            });
        writes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doorbells() -> Doorbells {
        Doorbells::new(&[Range {
            bar: 0,
            offset: 0x1000,
            length: 0x1000,
            key: 0xff,
        }])
    }

    #[test]
    fn the_last_value_of_each_is_kept() {
        let mut doorbells = doorbells();
        for (offset, value) in [
            (0x1000, 0x101),
            (0x1000, 0x102),
            (0x1000, 0x201),
            (0x1008, 0x301),
        ] {
            doorbells.note_whole(0, offset, value);
        }
        let mut kept: Vec<_> = doorbells
            .writes()
            .iter()
            .map(|w| (w.offset, w.value))
            .collect();
        kept.sort_unstable();
        assert_eq!(kept, [(0x1000, 0x102), (0x1000, 0x201), (0x1008, 0x301)]);
        doorbells.clear();
        assert!(doorbells.writes().is_empty());
    }

    #[test]
    fn halves_are_joined() {
        let mut doorbells = doorbells();
        doorbells.note_half(0, 0x1004, 9);
        doorbells.note_half(0, 0x1000, 7);
        doorbells.note_half(0, 0x100c, 9);
        assert!(doorbells.writes().is_empty());
        doorbells.note_half(0, 0x1000, 7);
        doorbells.note_half(0, 0x1004, 8);
        assert_eq!(doorbells.writes()[0].value, 7 | 8 << 32);
    }

    #[test]
    fn other_registers_are_not() {
        let mut doorbells = doorbells();
        doorbells.note_whole(0, 0xff8, 1);
        doorbells.note_whole(0, 0x2000, 1);
        doorbells.note_whole(2, 0x1000, 1);
        assert!(doorbells.writes().is_empty());
    }

    #[test]
    fn there_is_a_limit() {
        let mut doorbells = Doorbells::new(&[Range {
            bar: 0,
            offset: 0,
            length: 8,
            key: u64::MAX,
        }]);
        for value in 0..2 * MAX_DOORBELLS as u64 {
            doorbells.note_whole(0, 0, value);
        }
        assert_eq!(doorbells.writes().len(), MAX_DOORBELLS);
    }
}
