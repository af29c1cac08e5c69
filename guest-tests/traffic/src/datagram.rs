//! One numbered datagram.

/// Length of a datagram's header; the rest is filler.
pub const HEADER: usize = 16;

/// The header of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its number; the first is 0.
    pub number: u64,
    /// How many datagrams its sender has received so far, each counted once.
    pub received: u64,
}

impl Datagram {
    /// Writes the datagram to `bytes`, of which there are at least [`HEADER`].
    pub fn write(self, bytes: &mut [u8]) {
        let (header, filler) = bytes.split_at_mut(HEADER);
        header[..8].copy_from_slice(&self.number.to_le_bytes());
        header[8..].copy_from_slice(&self.received.to_le_bytes());
        for (index, byte) in filler.iter_mut().enumerate() {
            *byte = filler_byte(self.number, index);
        }
    }

    /// Reads a datagram; `None` if it is not what [`write`](Self::write) makes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (received, filler) = rest.split_first_chunk()?;
        let datagram = Self {
            number: u64::from_le_bytes(*number),
            received: u64::from_le_bytes(*received),
        };
        let mut expected = (0..).map(|index| filler_byte(datagram.number, index));
        filler
            .iter()
            .all(|byte| Some(*byte) == expected.next())
            .then_some(datagram)
    }
}

/// Returns a byte of filler, which depends on the datagram and the offset.
fn filler_byte(number: u64, index: usize) -> u8 {
    (number as usize).wrapping_mul(31).wrapping_add(index * 7) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_not() {
        let datagram = Datagram {
            number: 70_000,
            received: 3,
        };
        let mut bytes = [0; 64];
        datagram.write(&mut bytes);
        assert_eq!(Datagram::read(&bytes), Some(datagram));
        assert_eq!(Datagram::read(&bytes[..HEADER - 1]), None);
        bytes[40] ^= 1;
        assert_eq!(Datagram::read(&bytes), None);
    }
}
