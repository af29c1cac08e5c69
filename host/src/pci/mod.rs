//! The generic part of a PCI function: configuration space, BARs and MSI-X.
//!
//! A [`Function`] is a state machine without I/O: its owner passes it the guest's accesses and
//! delivers the resulting messages. It accepts accesses of any width and alignment, and none
//! of them can fail.

mod config;
pub mod msix;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use config::{CONFIG_SPACE_SIZE, Identity};
use config::{Command, ConfigSpace};
use msix::{Due, Gate, Message, Msix, TableOwner};

/// The smallest BAR in bytes: one page, so that a BAR never shares a page with
/// another device's.
pub const MIN_BAR_SIZE: u64 = 4096;

/// The largest BAR in bytes. Firmware would not find room for a larger one.
pub const MAX_BAR_SIZE: u64 = 1 << 40;

/// Number of BAR registers in a type 0 header; a 64-bit BAR takes two.
pub const BAR_COUNT: usize = 6;

/// Why a function can't be created from a device's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// Vendor 0xffff is what a read of an empty slot returns.
    #[error("vendor id 0xffff means that there is no device; use the vendor's own")]
    NoVendor,
    /// The class code has more than 24 bits.
    #[error("class code {0:#x} has more than 24 bits")]
    ClassCode(u32),
    /// 64-bit BARs begin at an even index.
    #[error("there is no 64-bit BAR {0}: the index must be 0, 2 or 4")]
    BarIndex(u8),
    /// Two BARs have the same index.
    #[error("BAR {0} is described twice")]
    BarRepeated(u8),
    /// Not a power of two from [`MIN_BAR_SIZE`] to [`MAX_BAR_SIZE`].
    #[error(
        "BAR {index} has {size:#x} bytes: the size must be a power of two \
         from {MIN_BAR_SIZE:#x} to {MAX_BAR_SIZE:#x}"
    )]
    BarSize {
        /// The BAR's index.
        index: u8,
        /// Its size in bytes.
        size: u64,
    },
    /// The size of the MSI-X table is out of range.
    #[error("{0} MSI-X vectors: there must be 1 to {max}", max = msix::MAX_VECTORS)]
    Vectors(u16),
    /// Every BAR is in use, so that there is none for the MSI-X table.
    #[error("no BAR is left for the MSI-X table: describe at most two")]
    NoRoomForMsix,
}

/// The location of a function's MSI-X structures, for a VMM that emulates them itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MsixLayout {
    /// Index of the BAR that contains nothing else.
    pub bar: u8,
    /// Number of vectors.
    pub vectors: u16,
    /// Offset of the table in the BAR, in bytes.
    pub table: u64,
    /// Offset of the pending bits in the BAR, in bytes.
    pub pending: u64,
}

/// A PCI Express endpoint with memory BARs and MSI-X.
#[derive(Clone, Debug)]
pub struct Function {
    identity: Identity,
    config: ConfigSpace,
    /// Sizes in bytes, 0 where there is no BAR.
    bar_sizes: [u64; BAR_COUNT],
    msix_bar: u8,
    msix: Msix,
    /// The VMM has paused the function, whatever the guest enabled.
    paused: bool,
    /// The guest has enabled bus mastering since the last reset.
    has_mastered: bool,
}

impl Function {
    /// Creates a function in its power-on state, with BARs of the given (index, size
    /// in bytes), and one more for the MSI-X table of `msix_vectors` entries at
    /// the lowest free even index.
    ///
    /// # Errors
    ///
    /// [`FunctionError`] if the description is no valid PCI function.
    pub fn new(
        identity: Identity,
        bars: &[(u8, u64)],
        msix_vectors: u16,
    ) -> Result<Self, FunctionError> {
        identity.check()?;
        let mut bar_sizes = [0; BAR_COUNT];
        for &(index, size) in bars {
            place_bar(&mut bar_sizes, index, size)?;
        }
        let msix = Msix::new(msix_vectors)?;
        let layout = msix.layout();
        let msix_bar = [0_u8, 2, 4]
            .into_iter()
            .find(|&index| bar_sizes[usize::from(index)] == 0)
            .ok_or(FunctionError::NoRoomForMsix)?;
        bar_sizes[usize::from(msix_bar)] = layout.bar_size;
        let config = ConfigSpace::new(&identity, &bar_sizes, msix_bar, layout);
        Ok(Self {
            identity,
            config,
            bar_sizes,
            msix_bar,
            msix,
            paused: false,
            has_mastered: false,
        })
    }

    /// Reads configuration space; ones beyond [`CONFIG_SPACE_SIZE`].
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    /// Sets who keeps the MSI-X table that the guest programs; by default the function itself. Must
    /// be called at power-on.
    pub fn set_table_owner(&mut self, owner: TableOwner) {
        self.msix.set_owner(owner);
        let _ = self.msix.set_gate(self.gate());
    }

    /// Writes configuration space; read-only bits and bytes beyond its end are ignored. Returns the
    /// interrupts that the write released.
    #[must_use = "interrupts that were held back are lost unless they are delivered"]
    pub fn config_write(&mut self, offset: u64, data: &[u8]) -> Vec<Due> {
        self.config.write(offset, data);
        self.has_mastered |= self.config.command().contains(Command::BUS_MASTER);
        self.msix.set_gate(self.gate())
    }

    /// Returns whether a write to configuration space initiates a function-level reset, which the
    /// function's owner must perform.
    pub fn initiates_reset(offset: u64, data: &[u8]) -> bool {
        ConfigSpace::initiates_reset(offset, data)
    }

    fn gate(&self) -> Gate {
        let control = self.config.msix_control();
        Gate {
            enabled: control.enabled,
            masked: control.masked,
            bus_master: self.bus_master(),
        }
    }

    /// Reads the MSI-X BAR; ones beyond its end.
    pub fn msix_read(&self, offset: u64, data: &mut [u8]) {
        self.msix.read(offset, data, &|_| false);
    }

    /// Reads the MSI-X BAR if the VMM defers vectors too: those that `waits` selects also read as
    /// pending.
    pub fn msix_read_with(&self, offset: u64, data: &mut [u8], waits: &dyn Fn(u16) -> bool) {
        self.msix.read(offset, data, waits);
    }

    /// Writes the MSI-X BAR. Returns the interrupts that the write released.
    #[must_use = "interrupts that were held back are lost unless they are delivered"]
    pub fn msix_write(&mut self, offset: u64, data: &[u8]) -> Vec<Due> {
        self.msix.write(offset, data)
    }

    /// Raises an interrupt: the message to deliver now, or None if it has to
    /// wait (its pending bit is set) or the vector does not exist.
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        self.msix.raise(vector)
    }

    /// Raises an interrupt because the VMM asks for it, which it may do while the function
    /// can't write to memory. Otherwise as [`raise`](Self::raise).
    pub fn raise_for_vmm(&mut self, vector: u16) -> Option<Message> {
        let bus_master = true;
        let gate = self.gate();
        self.msix.raise_through(vector, Gate { bus_master, ..gate })
    }

    /// Returns whether an interrupt is pending.
    #[inline]
    pub fn is_pending(&self, vector: u16) -> bool {
        self.msix.is_pending(vector)
    }

    /// Returns whether the function answers accesses to its BARs.
    pub fn memory_enabled(&self) -> bool {
        self.config.command().contains(Command::MEMORY)
    }

    /// Returns whether the function may access guest memory: the guest has bus mastering
    /// on, and the VMM has not paused the function.
    pub fn bus_master(&self) -> bool {
        !self.paused && self.config.command().contains(Command::BUS_MASTER)
    }

    /// Returns whether the guest has enabled bus mastering since the last reset: the device may have
    /// queues in its memory.
    pub fn has_mastered(&self) -> bool {
        self.has_mastered
    }

    /// Sets what [`has_mastered`](Self::has_mastered) returns, for a function that is restored.
    pub fn set_has_mastered(&mut self, has_mastered: bool) {
        self.has_mastered = has_mastered;
    }

    /// Returns whether the VMM has paused the function.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Pauses the function, or resumes it: neither a reset nor the guest changes that. Returns the
    /// interrupts that this released.
    #[must_use = "interrupts that were held back are lost unless they are delivered"]
    pub fn set_paused(&mut self, paused: bool) -> Vec<Due> {
        self.paused = paused;
        self.msix.set_gate(self.gate())
    }

    /// Returns the location of the MSI-X structures.
    pub fn msix_layout(&self) -> MsixLayout {
        let layout = self.msix.layout();
        MsixLayout {
            bar: self.msix_bar,
            vectors: self.msix.vectors(),
            table: 0,
            pending: layout.pba_offset.into(),
        }
    }

    /// Returns the index of the BAR that holds the MSI-X table and pending bits.
    pub fn msix_bar(&self) -> u8 {
        self.msix_bar
    }

    /// Returns the number of MSI-X vectors.
    pub fn msix_vectors(&self) -> u16 {
        self.msix.vectors()
    }

    /// Returns the size of a BAR in bytes, 0 if there is none with this index.
    pub fn bar_size(&self, index: u8) -> u64 {
        self.bar_sizes.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Returns the address that the guest gave a BAR, or None if there is none with this index.
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        (self.bar_size(index) > 0).then(|| self.config.bar_address(index))
    }

    /// Returns to the power-on state: BAR addresses, command register, MSI-X.
    pub fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.has_mastered = false;
    }

    /// Returns the function's state, for people and tools.
    pub fn inspect(&self) -> Value {
        let control = self.config.msix_control();
        let bars = (0..BAR_COUNT as u8).filter(|&index| self.bar_size(index) > 0);
        let bars: serde_json::Map<_, _> = bars
            .map(|index| {
                let address = format!("{:#x}", self.config.bar_address(index));
                let bar = json!({ "size": self.bar_size(index), "address": address });
                (index.to_string(), bar)
            })
            .collect();
        json!({
            "identity": self.identity.inspect(),
            "memory_enabled": self.memory_enabled(),
            "bus_master": self.bus_master(),
            "paused": self.paused,
            "bars": bars,
            "msix": {
                "bar": self.msix_bar,
                "enabled": control.enabled,
                "masked": control.masked,
                "vectors": self.msix.vectors(),
                "unmasked": self.msix.unmasked(),
                "pending": self.msix.pending(),
            },
        })
    }
}

fn place_bar(sizes: &mut [u64; BAR_COUNT], index: u8, size: u64) -> Result<(), FunctionError> {
    if !matches!(index, 0 | 2 | 4) {
        return Err(FunctionError::BarIndex(index));
    }
    if !size.is_power_of_two() || !(MIN_BAR_SIZE..=MAX_BAR_SIZE).contains(&size) {
        return Err(FunctionError::BarSize { index, size });
    }
    let slot = &mut sizes[usize::from(index)];
    if *slot != 0 {
        return Err(FunctionError::BarRepeated(index));
    }
    *slot = size;
    Ok(())
}

/// Puts the bytes that `byte` gives for `offset` and up into `data`; ones
/// where it has none.
fn read_bytes(offset: u64, data: &mut [u8], byte: impl Fn(usize) -> Option<u8>) {
    for (at, slot) in data.iter_mut().enumerate() {
        let position = offset
            .checked_add(at as u64)
            .and_then(|p| usize::try_from(p).ok());
        *slot = position.and_then(&byte).unwrap_or(0xff);
    }
}
