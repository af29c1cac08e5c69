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

/// The layout of table and pending bits in their BAR; the table is at offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// At least 1.
    pub vectors: u16,
    /// Offset of the pending bits in bytes, a multiple of 8.
    pub pba_offset: u32,
    /// Size of the BAR in bytes, a power of two.
    pub bar_size: u64,
}

/// An interrupt to deliver now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The vector.
    pub vector: u16,
    /// The message in its table entry.
    pub message: Message,
}

/// Who keeps the table that the guest programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOwner {
    /// This function.
    Function,
    /// The VMM, which receives vectors by number. A mask that it forwards to the function holds
    /// interrupts back; one that it keeps to itself does not.
    Vmm,
}

/// The conditions for the function as a whole to send interrupts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// MSI-X is enabled.
    pub enabled: bool,
    /// All vectors are masked.
    pub masked: bool,
    /// The function may write to memory, which is what a message is
    /// (PCI Express Base 7.5.1.1.3).
    pub bus_master: bool,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A multiple of 4.
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
    /// Whether it was changed since power-on.
    programmed: bool,
}

impl Entry {
    const POWER_ON: Self = Self {
        address: 0,
        data: 0,
        masked: true,
        pending: false,
        programmed: false,
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
        self.programmed |= bytes != Self::POWER_ON.to_bytes();
    }

    /// Returns whether its own mask holds it back.
    fn is_held(&self, owner: TableOwner) -> bool {
        self.masked && (self.programmed || owner == TableOwner::Function)
    }

    /// Takes the message that is due, if nothing holds it back.
    fn take(&mut self, open: bool, owner: TableOwner) -> Option<Message> {
        if !open || !self.pending || self.is_held(owner) {
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
    /// Whether the function as a whole may send. While it may not, vectors become
    /// pending.
    open: bool,
    owner: TableOwner,
    /// MSI-X was enabled since power-on.
    was_enabled: bool,
}

impl Msix {
    pub fn new(vectors: u16) -> Result<Self, FunctionError> {
        if !(1..=MAX_VECTORS).contains(&vectors) {
            return Err(FunctionError::Vectors(vectors));
        }
        Ok(Self {
            entries: vec![Entry::POWER_ON; vectors.into()],
            open: false,
            owner: TableOwner::Function,
            was_enabled: false,
        })
    }

    /// Sets who keeps the table. Must be called at power-on.
    pub fn set_owner(&mut self, owner: TableOwner) {
        self.owner = owner;
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

    /// Returns the bytes of the pending bits, a whole number of 64-bit words.
    fn pba_size(&self) -> usize {
        self.entries.len().div_ceil(64) * 8
    }

    /// Reads table and pending bits; `waits` selects the vectors that the VMM defers too.
    pub fn read(&self, offset: u64, data: &mut [u8], waits: &dyn Fn(u16) -> bool) {
        let layout = self.layout();
        read_bytes(offset, data, |at| {
            let entry = self.entries.get(at / ENTRY_SIZE);
            match (entry, at.checked_sub(layout.pba_offset as usize)) {
                (Some(entry), _) => Some(entry.to_bytes()[at % ENTRY_SIZE]),
                (None, Some(pba)) if pba < self.pba_size() => Some(self.pending_byte(pba, waits)),
                _ => ((at as u64) < layout.bar_size).then_some(0),
            }
        });
    }

    fn pending_byte(&self, at: usize, waits: &dyn Fn(u16) -> bool) -> u8 {
        let entries = (0_u16..).zip(&self.entries).skip(8 * at).take(8);
        entries.enumerate().fold(0, |byte, (bit, (vector, entry))| {
            byte | u8::from(entry.pending || waits(vector)) << bit
        })
    }

    /// Writes the table; everything else is read-only.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<Due> {
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
            let message = entry.take(self.open, self.owner);
            let vector = index as u16;
            due.extend(message.map(|message| Due { vector, message }));
        }
        due
    }

    /// Sets the conditions for the function as a whole; returns the interrupts that this released.
    pub fn set_gate(&mut self, gate: Gate) -> Vec<Due> {
        self.was_enabled |= gate.enabled;
        let open = self.is_open(gate);
        if open == self.open {
            return Vec::new();
        }
        self.open = open;
        let owner = self.owner;
        let entries = (0..).zip(&mut self.entries);
        entries
            .filter_map(|(vector, entry)| {
                let message = entry.take(open, owner)?;
                Some(Due { vector, message })
            })
            .collect()
    }

    /// Returns whether interrupts pass. A VMM that keeps the table may also keep the bit
    /// that enables it, which counts once it was set.
    fn is_open(&self, gate: Gate) -> bool {
        let keeps_enable = self.owner == TableOwner::Vmm && !self.was_enabled;
        gate.bus_master && !gate.masked && (gate.enabled || keeps_enable)
    }

    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        self.raise_if(vector, self.open)
    }

    /// Raises a vector as if the gate were this one.
    pub fn raise_through(&mut self, vector: u16, gate: Gate) -> Option<Message> {
        self.raise_if(vector, self.is_open(gate))
    }

    fn raise_if(&mut self, vector: u16, open: bool) -> Option<Message> {
        let entry = self.entries.get_mut(usize::from(vector))?;
        entry.pending = true;
        entry.take(open, self.owner)
    }

    pub fn reset(&mut self) {
        self.entries.fill(Entry::POWER_ON);
        self.open = false;
        self.was_enabled = false;
    }

    /// Returns whether a vector waits to be raised.
    #[inline]
    pub fn is_pending(&self, vector: u16) -> bool {
        let entry = self.entries.get(usize::from(vector));
        entry.is_some_and(|entry| entry.pending)
    }

    /// Returns how many vectors are not masked in the table.
    pub fn unmasked(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.masked).count()
    }

    /// Returns the vectors that wait, in order.
    pub fn pending(&self) -> Vec<usize> {
        let waiting = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.pending);
        waiting.map(|(vector, _)| vector).collect()
    }
}
