//! Values in linear memory, where the canonical ABI puts them: little-endian,
//! each field at a multiple of its alignment.

use wasmtime::{Result, bail};
use zerocopy::{FromBytes, Immutable};

/// Bytes from an address on.
///
/// # Errors
///
/// Part of them lies beyond the memory's end, or the address is not aligned.
pub fn range(memory: &[u8], address: u32, size: usize, align: u32) -> Result<&[u8]> {
    let begin = aligned(address, align)?;
    let range = begin.checked_add(size).map(|end| begin..end);
    match range.and_then(|range| memory.get(range)) {
        Some(bytes) => Ok(bytes),
        None => bail!("a list or record ends beyond linear memory"),
    }
}

/// As [`range`], to write to.
///
/// # Errors
///
/// As there.
pub fn range_mut(memory: &mut [u8], address: u32, size: usize, align: u32) -> Result<&mut [u8]> {
    let begin = aligned(address, align)?;
    let range = begin.checked_add(size).map(|end| begin..end);
    match range.and_then(|range| memory.get_mut(range)) {
        Some(bytes) => Ok(bytes),
        None => bail!("a list or record ends beyond linear memory"),
    }
}

fn aligned(address: u32, align: u32) -> Result<usize> {
    if !address.is_multiple_of(align) {
        bail!("a list or record is not aligned");
    }
    Ok(address as usize)
}

/// The items of a list of integers or arrays of them.
///
/// # Errors
///
/// As [`range`].
pub fn items<T: FromBytes + Immutable>(
    memory: &[u8],
    (address, count): (u32, u32),
    align: u32,
) -> Result<&[T]> {
    let Some(size) = (count as usize).checked_mul(size_of::<T>()) else {
        bail!("a list is too long");
    };
    let bytes = range(memory, address, size, align)?;
    match <[T]>::ref_from_bytes(bytes) {
        Ok(items) => Ok(items),
        Err(_) => bail!("a list is not aligned"),
    }
}

/// A record in linear memory.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    memory: &'a [u8],
    own: &'a [u8],
}

impl<'a> Record<'a> {
    /// The one at an address.
    ///
    /// # Errors
    ///
    /// As [`range`].
    pub fn at(memory: &'a [u8], address: u32, size: usize, align: u32) -> Result<Self> {
        let own = range(memory, address, size, align)?;
        Ok(Self { memory, own })
    }

    /// The records of a list that is a field of this one.
    ///
    /// # Errors
    ///
    /// As [`range`].
    pub fn records(
        self,
        offset: usize,
        size: usize,
        align: u32,
    ) -> Result<impl Iterator<Item = Self> + use<'a>> {
        let (address, count) = (self.u32(offset), self.u32(offset + 4));
        let Some(length) = size.checked_mul(count as usize) else {
            bail!("a list is too long");
        };
        let memory = self.memory;
        let all = range(memory, address, length, align)?;
        let records = all.chunks_exact(size);
        Ok(records.map(move |own| Self { memory, own }))
    }

    /// A list of bytes that is a field.
    ///
    /// # Errors
    ///
    /// As [`range`].
    pub fn bytes(self, offset: usize) -> Result<Vec<u8>> {
        let (address, length) = (self.u32(offset), self.u32(offset + 4));
        let bytes = range(self.memory, address, length as usize, 1)?;
        Ok(bytes.to_vec())
    }

    /// A field of one byte; offsets are those of fields, so that they lie inside.
    pub fn u8(self, offset: usize) -> u8 {
        self.own[offset]
    }

    /// A field of 2 bytes.
    pub fn u16(self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    /// A field of 4 bytes.
    pub fn u32(self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    /// A field of 8 bytes.
    pub fn u64(self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }

    fn array<const N: usize>(self, offset: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.own[offset..offset + N]);
        array
    }
}

/// Writes fields of a record that begins with `own`.
pub fn set(own: &mut [u8], offset: usize, field: &[u8]) {
    own[offset..offset + field.len()].copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_memory_or_askew_is_refused() {
        let memory = vec![7; 64];
        assert_eq!(range(&memory, 60, 4, 4).unwrap(), [7; 4]);
        assert!(range(&memory, 61, 4, 1).is_err());
        assert!(range(&memory, u32::MAX, usize::MAX, 1).is_err());
        assert!(range(&memory, 2, 4, 4).is_err());
        assert!(items::<[u32; 4]>(&memory, (0, 4), 8).is_ok());
        assert!(items::<[u32; 4]>(&memory, (0, 5), 8).is_err());
        assert!(items::<[u32; 4]>(&memory, (0, u32::MAX), 8).is_err());
        assert!(items::<[u32; 4]>(&memory, (4, 1), 8).is_err());
    }

    fn record(memory: &[u8]) -> Record<'_> {
        Record::at(memory, 0, 8, 4).unwrap()
    }

    #[test]
    fn lists_in_records_are_followed_once_they_are_inside() {
        let mut memory = vec![0; 64];
        set(&mut memory, 0, &16u32.to_le_bytes());
        set(&mut memory, 4, &2u32.to_le_bytes());
        set(&mut memory, 16, &[1, 0, 2, 0]);
        let halves = record(&memory).records(0, 2, 2).unwrap();
        assert_eq!(halves.map(|half| half.u16(0)).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(record(&memory).bytes(0).unwrap(), [1, 0]);
        for (address, count) in [(62, 3), (15, 1), (0, u32::MAX)] {
            set(&mut memory, 0, &u32::to_le_bytes(address));
            set(&mut memory, 4, &u32::to_le_bytes(count));
            assert!(record(&memory).records(0, 2, 2).is_err());
        }
    }
}
