//! MSI-X: the table of messages, mask bits and pending bits.
//!
//! PCI Express Base Specification 4.0, section 6.1.4 (operation) and 7.7.2
//! (capability and table structure).

use super::{FunctionError, read_bytes};

/// The most entries that a table has: its size field has 11 bits.
pub const MAX_VECTORS: u16 = 2048;

const ENTRY_SIZE: usize = 16;
/// The pending bits begin on a page of their own, so that a VMM which emulates
/// the table can still map them.
const PAGE_SIZE: usize = 4096;

/// The message that an MSI-X table entry holds for a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address the message is written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// Where table and pending bits lie in their BAR; the table is at offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// At least 1.
    pub vectors: u16,
    /// Offset of the pending bits in bytes, a multiple of 8.
    pub pba_offset: u32,
    /// Size of the BAR in bytes, a power of two.
    pub bar_size: u64,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A multiple of 4.
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

impl Entry {
    const POWER_ON: Self = Self {
        address: 0,
        data: 0,
        masked: true,
        pending: false,
    };

    fn to_bytes(self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.data.to_le_bytes());
        bytes[12] = self.masked.into();
        bytes
    }

    fn set_bytes(&mut self, bytes: [u8; ENTRY_SIZE]) {
        let [address, rest] = [&bytes[..8], &bytes[8..]];
        self.address = address
            .iter()
            .rev()
            .fold(0, |all, &byte| all << 8 | u64::from(byte))
            & !3;
        self.data = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        self.masked = rest[4] & 1 != 0;
    }

    /// The message that is due, if nothing holds it back.
    fn take(&mut self, open: bool) -> Option<Message> {
        if !open || self.masked || !self.pending {
            return None;
        }
        self.pending = false;
        Some(Message {
            address: self.address,
            data: self.data,
        })
    }
}

/// The MSI-X table with its pending bits.
#[derive(Clone, Debug)]
pub(super) struct Msix {
    entries: Vec<Entry>,
    /// Whether the function as a whole may send: MSI-X is enabled and not
    /// masked. While it isn't, vectors become pending.
    open: bool,
}

impl Msix {
    pub fn new(vectors: u16) -> Result<Self, FunctionError> {
        if !(1..=MAX_VECTORS).contains(&vectors) {
            return Err(FunctionError::Vectors(vectors));
        }
        Ok(Self {
            entries: vec![Entry::POWER_ON; vectors.into()],
            open: false,
        })
    }

    pub fn vectors(&self) -> u16 {
        self.entries.len() as u16
    }

    pub fn layout(&self) -> Layout {
        let pba_offset = (self.entries.len() * ENTRY_SIZE).next_multiple_of(PAGE_SIZE);
        let end = pba_offset + self.pba_size();
        Layout {
            vectors: self.vectors(),
            pba_offset: pba_offset as u32,
            bar_size: end.next_power_of_two() as u64,
        }
    }

    /// In bytes; the pending bits are a whole number of 64-bit words.
    fn pba_size(&self) -> usize {
        self.entries.len().div_ceil(64) * 8
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let layout = self.layout();
        read_bytes(offset, data, |at| {
            let entry = self.entries.get(at / ENTRY_SIZE);
            match (entry, at.checked_sub(layout.pba_offset as usize)) {
                (Some(entry), _) => Some(entry.to_bytes()[at % ENTRY_SIZE]),
                (None, Some(pba)) if pba < self.pba_size() => Some(self.pending_byte(pba)),
                _ => ((at as u64) < layout.bar_size).then_some(0),
            }
        });
    }

    fn pending_byte(&self, at: usize) -> u8 {
        let entries = self.entries.iter().skip(8 * at).take(8);
        entries.enumerate().fold(0, |byte, (bit, entry)| {
            byte | u8::from(entry.pending) << bit
        })
    }

    /// Everything but the table is read-only.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<Message> {
        let table_size = self.entries.len() * ENTRY_SIZE;
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(table_size);
        let end = start.saturating_add(data.len()).min(table_size);
        let touched = start / ENTRY_SIZE..end.div_ceil(ENTRY_SIZE).max(start / ENTRY_SIZE);
        let mut due = Vec::new();
        for index in touched {
            let base = index * ENTRY_SIZE;
            let entry = &mut self.entries[index];
            let mut bytes = entry.to_bytes();
            let (from, to) = (start.max(base), end.min(base + ENTRY_SIZE));
            bytes[from - base..to - base].copy_from_slice(&data[from - start..to - start]);
            entry.set_bytes(bytes);
            due.extend(entry.take(self.open));
        }
        due
    }

    /// Opens or closes the function as a whole; returns what had to wait.
    pub fn set_open(&mut self, open: bool) -> Vec<Message> {
        if open == self.open {
            return Vec::new();
        }
        self.open = open;
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.take(open))
            .collect()
    }

    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        let entry = self.entries.get_mut(usize::from(vector))?;
        entry.pending = true;
        entry.take(self.open)
    }

    pub fn reset(&mut self) {
        self.entries.fill(Entry::POWER_ON);
        self.open = false;
    }

    /// How many vectors are not masked in the table.
    pub fn unmasked(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.masked).count()
    }

    /// The vectors that wait, in order.
    pub fn pending(&self) -> Vec<usize> {
        let waiting = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.pending);
        waiting.map(|(vector, _)| vector).collect()
    }
}
