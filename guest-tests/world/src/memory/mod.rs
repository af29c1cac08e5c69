//! Guest memory, as the guest and as the device access it.

use alloc::vec::Vec;
use core::ops::Range;
#[cfg(not(target_family = "wasm"))]
use core::ptr::NonNull;

pub use device_kit::bindings::manatee::device::guest_memory::MemoryError as AccessError;
use device_kit::platform::Segment;

#[cfg(target_family = "wasm")]
mod plain;
#[cfg(not(target_family = "wasm"))]
pub mod shared;
#[cfg(not(target_family = "wasm"))]
mod windows;

#[cfg(target_family = "wasm")]
use plain::Ram;
#[cfg(not(target_family = "wasm"))]
use shared::Ram;

/// Size of guest memory in bytes; it begins at guest address 0.
pub const MEMORY_SIZE: u64 = 16 << 20;
/// Longest copy that a device may ask for.
const MAX_COPY: u64 = 1 << 20;

/// Guest memory of [`MEMORY_SIZE`] bytes. The guest can access all of it, the device what
/// was not revoked.
#[derive(Debug)]
pub struct Memory {
    ram: Ram,
    /// The ranges that were revoked from the device.
    revoked: Vec<Range<u64>>,
    #[cfg(not(target_family = "wasm"))]
    windows: windows::Windows,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            ram: Ram::new(MEMORY_SIZE),
            revoked: Vec::new(),
            #[cfg(not(target_family = "wasm"))]
            windows: windows::Windows::default(),
        }
    }
}

impl Memory {
    /// Reads as the guest.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if part of the range is not guest memory.
    pub fn peek(&self, address: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let range = inside(address, data.len() as u64).ok_or(AccessError::Unmapped)?;
        self.ram.read(range, data);
        Ok(())
    }

    /// Writes as the guest.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if part of the range is not guest memory.
    pub fn poke(&self, address: u64, data: &[u8]) -> Result<(), AccessError> {
        let range = inside(address, data.len() as u64).ok_or(AccessError::Unmapped)?;
        self.ram.write(range, data);
        Ok(())
    }

    /// Reads as the device.
    ///
    /// # Errors
    ///
    /// [`AccessError`], as `wit/device.wit` says of `read`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), AccessError> {
        self.ram.read(self.check(address, data.len() as u64)?, data);
        Ok(())
    }

    /// Writes as the device.
    ///
    /// # Errors
    ///
    /// [`AccessError`], as `wit/device.wit` says of `write`.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), AccessError> {
        self.ram
            .write(self.check(address, data.len() as u64)?, data);
        Ok(())
    }

    /// Revokes a range from the device: its reads and writes there fail, and so do
    /// packets and buffers. Returns the addresses of windows that no longer show guest
    /// memory.
    #[cfg(not(target_family = "wasm"))]
    pub fn revoke(&mut self, address: u64, length: u64) -> Vec<NonNull<u8>> {
        self.note_revoked(address, length);
        self.lay_again(false)
    }

    /// Revokes a range from the device: its reads and writes there fail, and so do
    /// packets and buffers.
    #[cfg(target_family = "wasm")]
    pub fn revoke(&mut self, address: u64, length: u64) {
        self.note_revoked(address, length);
    }

    fn note_revoked(&mut self, address: u64, length: u64) {
        self.revoked.push(address..address.saturating_add(length));
    }

    /// Gives the device all revoked memory back. Returns the addresses of windows that
    /// show guest memory again.
    #[cfg(not(target_family = "wasm"))]
    pub fn give_back(&mut self) -> Vec<NonNull<u8>> {
        self.revoked.clear();
        self.lay_again(true)
    }

    /// Gives the device all revoked memory back.
    #[cfg(target_family = "wasm")]
    pub fn give_back(&mut self) {
        self.revoked.clear();
    }

    /// Clears the memory, and gives all of it to the device.
    #[cfg(target_family = "wasm")]
    pub fn clear(&mut self) {
        self.ram.clear();
        self.revoked.clear();
    }

    /// Copies a packet to `frame`, replacing its content. Returns whether the device
    /// may access all of its segments.
    pub fn gather(&self, segments: &[Segment], frame: &mut Vec<u8>) -> bool {
        frame.clear();
        for segment in segments {
            let Some(range) = self.in_reach(segment.address, segment.length.into()) else {
                return false;
            };
            let from = frame.len();
            frame.resize(from + segment.length as usize, 0);
            self.ram.read(range, &mut frame[from..]);
        }
        true
    }

    /// Copies a frame to a buffer. Returns whether the device may access all of its
    /// segments; nothing is written otherwise.
    pub fn scatter<'a>(
        &self,
        segments: impl Iterator<Item = &'a Segment> + Clone,
        frame: &[u8],
    ) -> bool {
        let range = |segment: &Segment| self.in_reach(segment.address, segment.length.into());
        if segments.clone().any(|segment| range(segment).is_none()) {
            return false;
        }
        let mut rest = frame;
        for segment in segments {
            let (now, later) = rest.split_at(rest.len().min(segment.length as usize));
            let end = segment.address + now.len() as u64;
            self.ram.write(segment.address..end, now);
            rest = later;
        }
        true
    }

    /// Checks a copy that the device requests.
    ///
    /// # Errors
    ///
    /// [`AccessError`], as `wit/device.wit` says of `read`.
    pub fn check(&self, address: u64, length: u64) -> Result<Range<u64>, AccessError> {
        if length > MAX_COPY || address.checked_add(length).is_none() {
            return Err(AccessError::TooLong);
        }
        self.in_reach(address, length).ok_or(AccessError::Unmapped)
    }

    /// Returns a range if it is guest memory that the device may access.
    fn in_reach(&self, address: u64, length: u64) -> Option<Range<u64>> {
        let range = inside(address, length)?;
        let is_gone = |gone: &Range<u64>| range.start < gone.end && gone.start < range.end;
        (!self.revoked.iter().any(is_gone)).then_some(range)
    }
}

/// Returns a range if it is guest memory.
fn inside(address: u64, length: u64) -> Option<Range<u64>> {
    let end = address.checked_add(length)?;
    (end <= MEMORY_SIZE).then_some(address..end)
}

#[cfg(test)]
mod tests;
