//! The table of guest memory. A store to the first cell of a region adds or removes it, with the
//! number of the request: a process that dies has carried all of a request out, or nothing.
//!
//! | cell | what |
//! | --- | --- |
//! | 0 | whether it is valid (bit 0), and the number of the request that changed it last |
//! | 1 | address |
//! | 2 | bytes |
//! | 3 | number of its file, plus 1; 0 if it is not shared |
//! | 4 | offset in the file |
//! | 5 | whether it is writable |
//!
//! A request may remove several regions. The store to the last cell of
//! [`REMOVAL_AT`](super::layout::REMOVAL_AT) commits that, and whoever reads the table completes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cells::{CELL, Cells};
use super::layout::{MAX_REGIONS, REMOVAL_AT, region};
use crate::memory::{FileId, SharedRegion};

/// A region of a process that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRegion {
    pub address: u64,
    pub size: u64,
    pub writable: bool,
    /// The number of its file, and the offset there.
    pub file: Option<(u64, u64)>,
}

/// The regions and their files.
#[derive(Debug)]
pub struct Regions {
    cells: Arc<Cells>,
    /// Slots by address.
    slots: BTreeMap<u64, usize>,
    /// Slots of removed regions.
    free: Vec<usize>,
    /// The files' numbers and region counts.
    files: BTreeMap<FileId, (u64, usize)>,
    /// The file of each slot.
    owners: BTreeMap<usize, FileId>,
    next_file: u64,
}

impl Regions {
    /// Creates an empty table.
    pub fn new(cells: Arc<Cells>) -> Self {
        Self {
            cells,
            slots: BTreeMap::new(),
            free: Vec::new(),
            files: BTreeMap::new(),
            owners: BTreeMap::new(),
            next_file: 0,
        }
    }

    /// Returns the number of a file, and whether it is new: then its descriptor is to be stored
    /// before a region of it is [added](Self::add).
    pub fn file(&mut self, id: FileId) -> (u64, bool) {
        if let Some((number, _)) = self.files.get(&id) {
            return (*number, false);
        }
        let number = self.next_file;
        self.next_file += 1;
        self.files.insert(id, (number, 0));
        (number, true)
    }

    /// Adds a region.
    pub fn add(&mut self, shared: &SharedRegion, file: Option<FileId>, request: u64) {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot >= MAX_REGIONS {
            return;
        }
        let owner = file.and_then(|id| Some((id, self.files.get_mut(&id)?)));
        let number = owner.map(|(id, (number, regions))| {
            *regions += 1;
            self.owners.insert(slot, id);
            *number
        });
        let offset = shared.file.as_ref().map_or(0, |(_, offset)| *offset);
        let at = region(slot);
        let values = [
            shared.address,
            shared.size,
            number.map_or(0, |number| number + 1),
            offset,
            u64::from(shared.writable),
        ];
        for (number, value) in (1..).zip(values) {
            self.cells.store(at + number * CELL, value);
        }
        self.cells.store(at, 1 | request << 1);
        self.slots.insert(shared.address, slot);
    }

    /// Removes the regions whose first byte is in a range. Returns the numbers of files without
    /// regions.
    pub fn remove(&mut self, range: std::ops::Range<u64>, request: u64) -> Vec<u64> {
        let gone: Vec<_> = self.slots.range(range).map(|(a, s)| (*a, *s)).collect();
        let mut unused = Vec::new();
        if let (Some((first, _)), Some((last, _))) = (gone.first(), gone.last()) {
            self.cells.store(REMOVAL_AT, *first);
            self.cells.store(REMOVAL_AT + CELL, *last);
            self.cells.store(REMOVAL_AT + 2 * CELL, request + 1);
        }
        for (address, slot) in gone {
            self.slots.remove(&address);
            self.cells.store(region(slot), request << 1);
            self.free.push(slot);
            if let Some(id) = self.owners.remove(&slot)
                && let Some((number, regions)) = self.files.get_mut(&id)
            {
                *regions -= 1;
                if *regions == 0 {
                    unused.push(*number);
                    self.files.remove(&id);
                }
            }
        }
        self.cells.store(REMOVAL_AT + 2 * CELL, 0);
        unused
    }
}

/// Reads the regions, which are hostile input, and whether the request with this number changed one.
pub fn read(cells: &Cells, request: u64) -> (Vec<LostRegion>, bool) {
    let removal = [0, 1, 2].map(|number| cells.load(REMOVAL_AT + number * CELL));
    let [first, last, remover] = removal;
    let mut regions = Vec::new();
    let mut changed = remover == request.wrapping_add(1);
    for slot in 0..MAX_REGIONS {
        let at = region(slot);
        let value = |number: usize| cells.load(at + number * CELL);
        // Slots are used in order, and have an address or a length from then on.
        if [0, 1, 2].iter().all(|number| value(*number) == 0) {
            break;
        }
        changed |= value(0) >> 1 == request;
        let removed = remover != 0 && (first..=last).contains(&value(1));
        if value(0) & 1 == 1 && !removed {
            regions.push(LostRegion {
                address: value(1),
                size: value(2),
                writable: value(5) == 1,
                file: value(3).checked_sub(1).map(|number| (number, value(4))),
            });
        }
    }
    (regions, changed)
}
