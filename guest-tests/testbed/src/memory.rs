//! Guest memory, as the device and as the guest reach it.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::bindings::exports::manatee::device::guest_memory::MemoryError;
use crate::bindings::manatee::device::types::Segment;

/// Size of guest memory in bytes; it begins at address 0.
pub const SIZE: usize = 16 << 20;
/// Longest copy that the device may ask for.
const MAX_COPY: u64 = 1 << 20;

/// Guest memory.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    denied: Vec<Range<u64>>,
    planned: Vec<Planned>,
}

/// An access that is going to fail.
#[derive(Debug)]
struct Planned {
    skip: u32,
    error: MemoryError,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            bytes: vec![0; SIZE],
            denied: Vec::new(),
            planned: Vec::new(),
        }
    }
}

impl Memory {
    /// Makes it zero and open to the device.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
        self.denied.clear();
        self.planned.clear();
    }

    /// Returns what the guest sees. None if the range is outside.
    pub fn peek(&self, address: u64, length: u32) -> Option<&[u8]> {
        self.bytes.get(inside(address, length.into())?)
    }

    /// Writes as the guest. Returns false if the range is outside.
    pub fn poke(&mut self, address: u64, data: &[u8]) -> bool {
        let range = inside(address, data.len() as u64);
        let Some(bytes) = range.and_then(|range| self.bytes.get_mut(range)) else {
            return false;
        };
        bytes.copy_from_slice(data);
        true
    }

    /// Takes a range from the device.
    pub fn deny(&mut self, address: u64, length: u64) {
        self.denied.push(address..address.saturating_add(length));
    }

    /// Has one access of the device fail, after `skip` others.
    pub fn plan_fault(&mut self, skip: u32, error: MemoryError) {
        self.planned.push(Planned { skip, error });
    }

    /// Reads as the device.
    ///
    /// # Errors
    ///
    /// As the world says, or as was planned.
    pub fn read(&mut self, address: u64, length: u32) -> Result<&[u8], MemoryError> {
        let range = self.access(address, length.into())?;
        Ok(&self.bytes[range])
    }

    /// Writes as the device.
    ///
    /// # Errors
    ///
    /// As the world says, or as was planned.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let range = self.access(address, data.len() as u64)?;
        self.bytes[range].copy_from_slice(data);
        Ok(())
    }

    /// Copies a packet out. None if a segment is not memory of the device.
    pub fn gather(&self, segments: &[Segment]) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        for segment in segments {
            frame.extend_from_slice(&self.bytes[self.reach(segment)?]);
        }
        Some(frame)
    }

    /// Fills a buffer, as far as the frame goes. None, and nothing written, if
    /// a segment is not memory of the device.
    pub fn scatter(&mut self, segments: &[Segment], frame: &[u8]) -> Option<()> {
        let ranges: Option<Vec<_>> = segments.iter().map(|segment| self.reach(segment)).collect();
        let mut rest = frame;
        for range in ranges? {
            let (now, later) = rest.split_at(rest.len().min(range.len()));
            self.bytes[range.start..range.start + now.len()].copy_from_slice(now);
            rest = later;
        }
        Some(())
    }

    fn reach(&self, segment: &Segment) -> Option<Range<usize>> {
        self.open(segment.address, segment.length.into())
    }

    /// Checks an access by the device, which may be planned to fail.
    fn access(&mut self, address: u64, length: u64) -> Result<Range<usize>, MemoryError> {
        let due = self.planned.iter().position(|planned| planned.skip == 0);
        for planned in &mut self.planned {
            planned.skip = planned.skip.saturating_sub(1);
        }
        if let Some(due) = due {
            return Err(self.planned.remove(due).error);
        }
        if length > MAX_COPY || address.checked_add(length).is_none() {
            return Err(MemoryError::TooLong);
        }
        self.open(address, length).ok_or(MemoryError::Unmapped)
    }

    /// Returns a range that is memory and not denied.
    fn open(&self, address: u64, length: u64) -> Option<Range<usize>> {
        let range = inside(address, length)?;
        let end = address + length;
        let denied = |gone: &Range<u64>| address < gone.end && gone.start < end;
        (!self.denied.iter().any(denied)).then_some(range)
    }
}

fn inside(address: u64, length: u64) -> Option<Range<usize>> {
    let end = address.checked_add(length)?;
    (end <= SIZE as u64).then_some(address as usize..end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_reaches_memory_and_nothing_else() {
        let mut memory = Memory::default();
        assert_eq!(memory.write(SIZE as u64 - 2, b"ab"), Ok(()));
        assert_eq!(memory.read(SIZE as u64 - 2, 2), Ok(&b"ab"[..]));
        assert_eq!(memory.read(SIZE as u64 - 1, 2), Err(MemoryError::Unmapped));
        assert_eq!(memory.read(u64::MAX, 2), Err(MemoryError::TooLong));
        assert_eq!(memory.read(0, (1 << 20) + 1), Err(MemoryError::TooLong));
        memory.clear();
        assert_eq!(memory.read(SIZE as u64 - 2, 2), Ok(&[0, 0][..]));
    }

    #[test]
    fn what_is_denied_fails_for_the_device_only() {
        let mut memory = Memory::default();
        memory.deny(100, 10);
        assert_eq!(memory.read(90, 10), Ok(&[0; 10][..]));
        assert_eq!(memory.read(90, 11), Err(MemoryError::Unmapped));
        assert_eq!(memory.read(110, 1), Ok(&[0][..]));
        assert!(memory.poke(105, &[1]));
        assert_eq!(memory.peek(105, 1), Some(&[1][..]));
    }

    #[test]
    fn planned_faults_hit_the_access_they_were_planned_for() {
        let mut memory = Memory::default();
        memory.plan_fault(1, MemoryError::Unmapped);
        assert!(memory.read(0, 1).is_ok());
        assert_eq!(memory.read(0, 1), Err(MemoryError::Unmapped));
        assert!(memory.read(0, 1).is_ok());
    }

    #[test]
    fn frames_are_gathered_and_scattered() {
        let mut memory = Memory::default();
        let segments = [(10, 2), (4, 3)].map(|(address, length)| Segment { address, length });
        assert_eq!(memory.scatter(&segments, b"abcd"), Some(()));
        assert_eq!(memory.peek(4, 8), Some(&b"cd\0\0\0\0ab"[..]));
        assert_eq!(memory.gather(&segments).as_deref(), Some(&b"abcd\0"[..]));
        memory.deny(6, 1);
        assert_eq!(memory.gather(&segments), None);
        assert_eq!(memory.scatter(&segments, b"x"), None);
    }
}
