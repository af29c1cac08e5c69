//! The last value of each doorbell, for a fresh instance to continue from.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::continuity::live::DoorbellTable;
use crate::contract::{DoorbellRange as Range, RegisterWrite};

/// The most doorbells that are kept: more than a device has queues. MANA has 5125 with all
/// 1024 queue pairs.
const MAX_DOORBELLS: usize = 8192;

/// Identifies a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    bar: u8,
    offset: u64,
    /// The bits of the value that distinguish doorbells.
    id: u64,
}

/// A doorbell that rang recently, with its last value.
#[derive(Clone, Copy, Debug)]
struct Recent {
    key: Key,
    /// Which bits of a value are the doorbell's id.
    id_bits: u64,
    value: u64,
    /// Its number, in the order in which doorbells rang first.
    number: usize,
}

impl Recent {
    /// Returns whether a write is to this doorbell.
    #[inline]
    fn is_rung_by(&self, bar: u8, offset: u64, value: u64) -> bool {
        let Key {
            bar: b, offset: o, ..
        } = self.key;
        b == bar && o == offset && (value ^ self.value) & self.id_bits == 0
    }

    /// Returns the cache slot for an offset: mostly a different one for each kind of doorbell.
    #[inline]
    fn slot(offset: u64) -> usize {
        (offset >> 3 ^ offset >> 10) as usize % RECENT
    }
}

/// The number of doorbells that are found without a lookup in the map.
const RECENT: usize = 8;

/// The doorbells of a device.
#[derive(Clone, Debug, Default)]
pub struct Doorbells {
    ranges: Vec<Range>,
    /// All doorbells, without the values that are only in `recent` so far.
    last: HashMap<Key, Last, RandomState>,
    recent: [Option<Recent>; RECENT],
    /// BAR, offset and value of a lower half whose upper half has not been written.
    low: Option<(u8, u64, u64)>,
    /// Where they are noted for a successor, too.
    table: Option<DoorbellTable>,
}

/// A doorbell's number and its last value, unless that is cached.
#[derive(Clone, Copy, Debug)]
struct Last {
    number: usize,
    value: u64,
}

impl Doorbells {
    /// Keeps doorbells in these ranges.
    pub fn new(ranges: &[Range]) -> Self {
        Self {
            ranges: ranges.to_vec(),
            ..Self::default()
        }
    }

    /// Records a write. Returns whether it belongs to a doorbell.
    #[inline]
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

    /// Records a write of 4 bytes, which may be half of a doorbell: the upper half rings, if it
    /// directly follows the lower one.
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

    /// Records a write of 8 bytes, if it is to a doorbell.
    #[inline]
    fn note_whole(&mut self, bar: u8, offset: u64, value: u64) -> bool {
        match &mut self.recent[Recent::slot(offset)] {
            Some(recent) if recent.is_rung_by(bar, offset, value) => {
                recent.value = value;
                if let Some(table) = &self.table {
                    table.ring(recent.number, value);
                }
                true
            }
            _ => self.note_other(bar, offset, value),
        }
    }

    /// Records a write to a doorbell that is not cached. Doorbells beyond the limit are not
    /// recorded.
    fn note_other(&mut self, bar: u8, offset: u64, value: u64) -> bool {
        let Some(range) = self.range(bar, offset) else {
            return false;
        };
        let id_bits = range.key;
        let id = value & id_bits;
        let key = Key { bar, offset, id };
        let known = self.last.get(&key).map(|last| last.number);
        let number = known.unwrap_or(self.last.len());
        if number >= MAX_DOORBELLS {
            return true;
        }
        if let Some(table) = &self.table {
            let write = RegisterWrite { bar, offset, value };
            table.add(number, write, known.is_none());
        }
        self.last.insert(key, Last { number, value });
        let recent = Recent {
            key,
            id_bits,
            value,
            number,
        };
        if let Some(before) = self.recent[Recent::slot(offset)].replace(recent) {
            let Recent { number, value, .. } = before;
            self.last.insert(before.key, Last { number, value });
        }
        true
    }

    /// Notes them in a table, too, in which those that there are lie already, as
    /// [`writes`](Self::writes) returns them.
    pub fn note_in(&mut self, table: DoorbellTable) {
        self.table = Some(table);
    }

    /// Forgets all values. A table is not cleared: from now on none are noted there.
    pub fn clear(&mut self) {
        self.table = None;
        self.last.clear();
        self.recent = [None; RECENT];
    }

    /// Returns the last values, in the order in which the doorbells rang first.
    pub fn writes(&self) -> Vec<RegisterWrite> {
        let value = |key: &Key, last: &Last| match self.recent[Recent::slot(key.offset)] {
            Some(recent) if recent.key == *key => recent.value,
            _ => last.value,
        };
        let mut sorted: Vec<_> = self.last.iter().collect();
        sorted.sort_unstable_by_key(|(_, last)| last.number);
        let writes = sorted.into_iter().map(|(key, last)| RegisterWrite {
            bar: key.bar,
            offset: key.offset,
            value: value(key, last),
        });
        writes.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

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

    /// Uses few offsets that share slots, and few ids, so that the cache and the map exchange
    /// entries all the time.
    #[test]
    fn doorbells_match_a_map_of_last_values() {
        let writes = (0u8..2, 0u64..40, any::<u8>());
        let all = proptest::collection::vec(writes, 0..200);
        proptest!(|(all in all)| {
            let range = |bar| Range { bar, offset: 0, length: 0x800, key: 3 };
            let mut doorbells = Doorbells::new(&[range(0), range(1)]);
            let mut model = BTreeMap::new();
            for (bar, place, value) in all {
                let (offset, value) = (place % 4 * 8 + place / 4 * 1024 % 0x800, value.into());
                prop_assert!(doorbells.note(bar, offset, 8, value));
                model.insert((bar, offset, value & 3), value);
            }
            let kept = doorbells.writes().into_iter();
            let kept = kept.map(|w| ((w.bar, w.offset, w.value & 3), w.value));
            let kept: Vec<_> = kept.collect();
            prop_assert_eq!(kept.len(), model.len());
            prop_assert_eq!(kept.into_iter().collect::<BTreeMap<_, _>>(), model);
        });
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
    fn other_registers_are_not_recorded() {
        let mut doorbells = doorbells();
        doorbells.note_whole(0, 0xff8, 1);
        doorbells.note_whole(0, 0x2000, 1);
        doorbells.note_whole(2, 0x1000, 1);
        assert!(doorbells.writes().is_empty());
    }

    #[test]
    fn doorbells_are_bounded() {
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
