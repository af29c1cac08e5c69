//! A part of the file that is replaced atomically: it has two copies, of which the newest valid one counts.

use super::cells::{CELL, Cells};

/// The header of a copy: sequence number, length, checksum and a word of the writer's own.
const HEADER: usize = 4 * CELL;

/// A section's position.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its first byte in the file.
    pub offset: usize,
    /// The capacity of a copy in bytes.
    pub capacity: usize,
}

/// The contents of a section.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    /// Which of the two copies it is.
    pub number: usize,
    /// A word of the writer's own.
    pub word: u64,
    pub bytes: Vec<u8>,
}

impl Section {
    /// Returns the bytes of the file that it occupies.
    pub const fn size(self) -> usize {
        2 * self.stride()
    }

    const fn stride(self) -> usize {
        HEADER + self.capacity.next_multiple_of(CELL)
    }

    const fn copy(self, number: usize) -> usize {
        self.offset + number * self.stride()
    }

    /// Returns the copy that [`commit`](Self::commit) writes next.
    pub fn next(self, cells: &Cells) -> usize {
        let sequence = |number| cells.load(self.copy(number));
        usize::from(sequence(1) < sequence(0))
    }

    /// Replaces the contents. Until the last store, the previous copy counts. Returns whether
    /// they fit.
    pub fn commit(self, cells: &Cells, bytes: &[u8], word: u64) -> bool {
        if bytes.len() > self.capacity {
            return false;
        }
        let number = self.next(cells);
        let at = self.copy(number);
        let sequence = cells.load(self.copy(1 - number)) + 1;
        cells.store(at, 0);
        cells.store(at + CELL, bytes.len() as u64);
        cells.store(at + 2 * CELL, checksum(bytes, sequence, word));
        cells.store(at + 3 * CELL, word);
        cells.write(at + HEADER, bytes);
        cells.store(at, sequence);
        true
    }

    /// Returns the contents; None if no copy is valid.
    pub fn read(self, cells: &Cells) -> Option<Copy> {
        let sequence = |number: &usize| cells.load(self.copy(*number));
        let mut numbers = [0, 1];
        numbers.sort_by_key(|number| std::cmp::Reverse(sequence(number)));
        numbers.into_iter().find_map(|number| {
            let at = self.copy(number);
            let sequence = cells.load(at);
            let length = usize::try_from(cells.load(at + CELL)).ok()?;
            if sequence == 0 || length > self.capacity {
                return None;
            }
            let word = cells.load(at + 3 * CELL);
            let bytes = cells.read(at + HEADER, length);
            let valid = cells.load(at + 2 * CELL) == checksum(&bytes, sequence, word);
            valid.then_some(Copy {
                number,
                word,
                bytes,
            })
        })
    }
}

fn checksum(bytes: &[u8], sequence: u64, word: u64) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&sequence.to_le_bytes());
    sum.update(&word.to_le_bytes());
    sum.update(bytes);
    // Never 0, which is what an unwritten file holds.
    u64::from(sum.finalize()) | 1 << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: Section = Section {
        offset: 64,
        capacity: 100,
    };

    fn cells() -> Cells {
        Cells::new(4096).unwrap()
    }

    fn read(cells: &Cells) -> Option<(Vec<u8>, u64)> {
        SECTION.read(cells).map(|copy| (copy.bytes, copy.word))
    }

    #[test]
    fn the_last_commit_counts() {
        let cells = cells();
        assert_eq!(read(&cells), None);
        for n in 1..9_u8 {
            assert!(SECTION.commit(&cells, &[n; 77], n.into()));
            assert_eq!(read(&cells), Some((vec![n; 77], n.into())));
        }
        assert!(!SECTION.commit(&cells, &[9; 101], 9));
        assert_eq!(read(&cells), Some((vec![8; 77], 8)));
    }

    #[test]
    fn what_was_written_in_part_or_changed_does_not_count() {
        let cells = cells();
        SECTION.commit(&cells, b"first", 1);
        SECTION.commit(&cells, b"second", 2);
        let newest = SECTION.read(&cells).unwrap().number;
        for cell in 0..5 {
            let at = SECTION.copy(newest) + cell * CELL;
            let before = cells.load(at);
            // The last cell has six bytes of `second`.
            for bit in 0..if cell == 4 { 48 } else { 64 } {
                cells.store(at, before ^ 1 << bit);
                let now = read(&cells);
                // A sequence number below the other's is that of an older copy.
                assert_eq!(now, Some((b"first".to_vec(), 1)), "cell {cell} bit {bit}");
            }
            cells.store(at, before);
        }
        assert_eq!(read(&cells), Some((b"second".to_vec(), 2)));
    }
}
