//! Bytes in several segments, read and written as if they were contiguous.

use super::error::Fault;
use super::guest::GuestMemory;
use super::unit::Segment;

/// A position in the bytes of several segments.
///
/// As an iterator it yields the remaining segments, the first and the last of them cut at the
/// position and the [`limit`](Self::limit).
#[derive(Clone, Debug)]
pub struct Span<I> {
    rest: I,
    now: Segment,
    left: u64,
}

impl<I: Iterator<Item = Segment>> Span<I> {
    /// Creates a span at the beginning of all bytes of `segments`.
    #[inline]
    pub fn new(segments: impl IntoIterator<IntoIter = I>) -> Self {
        Self {
            rest: segments.into_iter(),
            now: Segment {
                address: 0,
                length: 0,
            },
            left: u64::MAX,
        }
    }

    /// Limits it to `length` more bytes.
    #[inline]
    pub fn limit(mut self, length: u64) -> Self {
        self.left = self.left.min(length);
        self
    }

    /// Advances by `length` bytes, or to the end.
    #[inline]
    pub fn advance(mut self, length: u64) -> Self {
        let mut skip = length;
        while skip > 0
            && let Some(piece) = self.piece(skip)
        {
            skip -= u64::from(piece.length);
        }
        self
    }

    /// Takes the next contiguous bytes, up to `most`; none at the end.
    #[inline]
    pub fn piece(&mut self, most: u64) -> Option<Segment> {
        while self.now.length == 0 {
            self.now = self.rest.next()?;
        }
        let length = u64::from(self.now.length).min(most).min(self.left);
        if length == 0 {
            return None;
        }
        // Fits: it is at most `self.now.length`.
        let length = length as u32;
        let taken = Segment {
            address: self.now.address,
            length,
        };
        // A segment that wraps the address space is no memory wherever it is
        // cut: with its end past the last address, every access to it faults.
        self.now.address = self.now.address.saturating_add(length.into());
        self.now.length -= length;
        self.left -= u64::from(length);
        Some(taken)
    }

    /// Copies from guest memory and advances; returns how many bytes there were.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if a segment can't be read; `data` is undefined then.
    #[inline]
    pub fn read(&mut self, memory: &GuestMemory, data: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        while let Some(piece) = self.piece((data.len() - done) as u64) {
            let end = done + piece.length as usize;
            memory.read(piece.address, &mut data[done..end])?;
            done = end;
        }
        Ok(done)
    }

    /// Copies to guest memory and advances; returns how many bytes had room.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if a segment can't be written; segments before it were.
    #[inline]
    pub fn write(&mut self, memory: &GuestMemory, data: &[u8]) -> Result<usize, Fault> {
        let mut done = 0;
        while let Some(piece) = self.piece((data.len() - done) as u64) {
            let end = done + piece.length as usize;
            memory.write(piece.address, &data[done..end])?;
            done = end;
        }
        Ok(done)
    }

    /// Copies the rest to `to`, as far as there is room.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if a segment can't be read or written; earlier ones were copied.
    pub fn copy_to<J: Iterator<Item = Segment>>(
        mut self,
        memory: &GuestMemory,
        mut to: Span<J>,
    ) -> Result<u64, Fault> {
        let mut done = 0;
        while let Some(room) = to.piece(u64::MAX) {
            let mut at = room.address;
            let end = room.address.saturating_add(room.length.into());
            while let Some(piece) = self.piece(end - at) {
                memory.copy(piece.address, at, piece.length.into())?;
                at += u64::from(piece.length);
                done += u64::from(piece.length);
            }
            if at < end {
                break;
            }
        }
        Ok(done)
    }
}

impl<I: Iterator<Item = Segment>> Iterator for Span<I> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        self.piece(u64::MAX)
    }
}
