//! The doorbells that rang since the checkpoint.

use std::sync::Arc;

use super::cells::{CELL, Cells};
use super::layout::{DOORBELL_CELLS, MAX_DOORBELLS, doorbells};
use crate::contract::RegisterWrite;

/// The table of doorbells that belongs to the current copy of the device's state.
#[derive(Clone, Debug)]
pub struct DoorbellTable {
    cells: Arc<Cells>,
    base: usize,
}

impl DoorbellTable {
    /// Fills the table of a copy that is about to be committed.
    pub fn fill(cells: &Arc<Cells>, copy: usize, rung: &[RegisterWrite]) -> Self {
        let table = Self {
            cells: cells.clone(),
            base: doorbells(copy),
        };
        table.cells.store(table.base, 0);
        for (slot, write) in rung.iter().enumerate() {
            table.add(slot, *write, true);
        }
        table
    }

    fn at(&self, slot: usize) -> usize {
        self.base + (1 + slot * DOORBELL_CELLS) * CELL
    }

    /// Writes a doorbell; a new one is appended.
    pub fn add(&self, slot: usize, write: RegisterWrite, new: bool) {
        if slot >= MAX_DOORBELLS {
            return;
        }
        let at = self.at(slot);
        self.cells.store(at, write.bar.into());
        self.cells.store(at + CELL, write.offset);
        self.cells.store(at + 2 * CELL, write.value);
        if new {
            self.cells.store(self.base, slot as u64 + 1);
        }
    }

    /// Updates the value of a doorbell.
    #[inline]
    pub fn ring(&self, slot: usize, value: u64) {
        if slot < MAX_DOORBELLS {
            self.cells.store(self.at(slot) + 2 * CELL, value);
        }
    }
}

/// Reads the table of a copy, which is hostile input. None if it is invalid.
pub fn read(cells: &Cells, copy: usize) -> Option<Vec<RegisterWrite>> {
    let base = doorbells(copy);
    let count = usize::try_from(cells.load(base)).ok()?;
    if count > MAX_DOORBELLS {
        return None;
    }
    let read = |slot: usize| {
        let at = base + (1 + slot * DOORBELL_CELLS) * CELL;
        let bar = u8::try_from(cells.load(at)).ok().filter(|bar| *bar < 6)?;
        Some(RegisterWrite {
            bar,
            offset: cells.load(at + CELL),
            value: cells.load(at + 2 * CELL),
        })
    };
    (0..count).map(read).collect()
}
