//! Values in linear memory, laid out by the canonical ABI: little-endian, each field at a multiple
//! of its alignment.

use wasmtime::Result;

use super::heap::Heap;
use crate::runtime::bounds;

/// A record in linear memory.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    heap: &'a Heap<'a>,
    own: &'a [u8],
}

impl<'a> Record<'a> {
    /// Returns the record at an address.
    ///
    /// # Errors
    ///
    /// The same as for [`Heap::bytes`].
    pub fn at(heap: &'a Heap<'_>, address: u32, size: usize, align: u32) -> Result<Self> {
        let own = heap.bytes(address, size, align)?;
        Ok(Self { heap, own })
    }

    /// Returns the records of a list that is a field of this one; `what` is for messages.
    ///
    /// # Errors
    ///
    /// If there are more than `most`; and the same as for [`Heap::bytes`].
    pub fn records(
        self,
        offset: usize,
        (size, align): (usize, u32),
        (what, most): (&str, usize),
    ) -> Result<impl Iterator<Item = Self> + use<'a>> {
        let (address, count) = (self.u32(offset), self.u32(offset + 4) as usize);
        bounds::check(what, count, most)?;
        let heap = self.heap;
        let all = heap.bytes(address, size * count, align)?;
        let records = all.chunks_exact(size);
        Ok(records.map(move |own| Self { heap, own }))
    }

    /// Returns a list of bytes that is a field; `what` is for messages.
    ///
    /// # Errors
    ///
    /// If there are more than `most`; and the same as for [`Heap::bytes`].
    pub fn bytes(self, offset: usize, (what, most): (&str, usize)) -> Result<Vec<u8>> {
        let (address, length) = (self.u32(offset), self.u32(offset + 4) as usize);
        bounds::check(what, length, most)?;
        Ok(self.heap.bytes(address, length, 1)?.to_vec())
    }

    /// Returns a field of one byte, at the offset of a field of this record.
    pub fn u8(self, offset: usize) -> u8 {
        self.own[offset]
    }

    /// Returns a field of 2 bytes.
    pub fn u16(self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    /// Returns a field of 4 bytes.
    pub fn u32(self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    /// Returns a field of 8 bytes.
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

    /// Memory from 40 on is the arena.
    fn with_heap(memory: &mut [u8], test: impl FnOnce(Heap<'_>)) {
        test(Heap::over(memory, 40..48));
    }

    #[test]
    fn what_lies_beyond_memory_or_askew_is_refused() {
        with_heap(&mut [7; 64], |heap| {
            assert_eq!(heap.bytes(60, 4, 4).unwrap(), [7; 4]);
            assert!(heap.bytes(61, 4, 1).is_err());
            assert!(heap.bytes(u32::MAX, usize::MAX, 1).is_err());
            assert!(heap.bytes(2, 4, 4).is_err());
            assert!(heap.items::<[u8; 8]>((0, 5), 8).is_ok());
            assert!(heap.items::<[u32; 4]>((0, 5), 8).is_err());
            assert!(heap.items::<[u32; 4]>((0, u32::MAX), 8).is_err());
            assert!(heap.items::<[u32; 4]>((4, 1), 8).is_err());
        });
    }

    #[test]
    fn what_meets_the_arena_is_refused_and_what_touches_it_is_not() {
        with_heap(&mut [7; 64], |mut heap| {
            for (address, size) in [(40, 1), (47, 1), (32, 9), (39, 2), (0, 64), (47, 10)] {
                let error = heap.bytes(address, size, 1).unwrap_err().to_string();
                assert!(error.contains("arena"), "{error}");
                assert!(heap.bytes_mut(address, size, 1).is_err());
            }
            for (address, size) in [(32, 8), (48, 16), (0, 40), (44, 0)] {
                assert!(heap.bytes(address, size, 1).is_ok(), "{address}+{size}");
            }
        });
    }

    #[test]
    fn lists_in_records_are_followed_once_they_are_inside_and_short_enough() {
        let mut memory = vec![0; 64];
        let list = |memory: &mut [u8], address: u32, count: u32| {
            set(memory, 0, &address.to_le_bytes());
            set(memory, 4, &count.to_le_bytes());
        };
        set(&mut memory, 16, &[1, 0, 2, 0]);
        list(&mut memory, 16, 2);
        with_heap(&mut memory, |heap| {
            let record = Record::at(&heap, 0, 8, 4).unwrap();
            let halves = record.records(0, (2, 2), ("halves", 2)).unwrap();
            assert_eq!(halves.map(|half| half.u16(0)).collect::<Vec<_>>(), [1, 2]);
            assert_eq!(record.bytes(0, ("bytes", 2)).unwrap(), [1, 0]);
            let error = record.bytes(0, ("bytes", 1)).unwrap_err().to_string();
            assert!(
                error.contains("bytes: 2, which is more than the 1"),
                "{error}"
            );
        });
        for (address, count) in [(62, 3), (15, 1), (0, u32::MAX), (38, 2)] {
            list(&mut memory, address, count);
            with_heap(&mut memory, |heap| {
                let record = Record::at(&heap, 0, 8, 4).unwrap();
                assert!(record.records(0, (2, 2), ("halves", 1 << 20)).is_err());
            });
        }
    }
}
