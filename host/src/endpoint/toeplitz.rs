//! The Toeplitz hash of receive side scaling.
//!
//! Every set bit of the input contributes (by exclusive or) the 32 bits of the key that begin at
//! its position. The contribution of a byte is therefore one of 256 values for each position,
//! which are looked up here.

/// Bytes of a key.
pub const KEY_BYTES: usize = 40;
/// The longest input in bytes: two IPv6 addresses, two ports.
pub const MAX_INPUT: usize = 36;

/// A key, ready for hashing.
pub struct Toeplitz {
    places: Box<[[u32; 256]; MAX_INPUT]>,
}

impl Toeplitz {
    /// Prepares a key.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let mut places = Box::new([[0; 256]; MAX_INPUT]);
        for (place, sums) in places.iter_mut().enumerate() {
            let key = &key[place..place + 5];
            let window = key.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
            for byte in 1..256_usize {
                // The last bit that is set, and what all others add.
                let bit = byte.trailing_zeros();
                let rest = sums[byte & (byte - 1)];
                sums[byte] = rest ^ (window >> (bit + 1)) as u32;
            }
        }
        Self { places }
    }

    /// Hashes the concatenation of two inputs; bytes beyond the longest input of any kind of packet
    /// are ignored.
    #[inline]
    pub fn hash(&self, first: &[u8], second: &[u8]) -> u32 {
        // The loops over the usual pieces have a length that the compiler knows.
        let hash = match (first.first_chunk::<8>(), first.first_chunk::<32>()) {
            (_, Some(addresses)) if first.len() == 32 => self.sum(0, addresses),
            (Some(addresses), _) if first.len() == 8 => self.sum(0, addresses),
            _ => self.sum(0, first),
        };
        match second.first_chunk::<4>() {
            Some(ports) if second.len() == 4 => hash ^ self.sum(first.len(), ports),
            _ => hash ^ self.sum(first.len(), second),
        }
    }

    /// Combines the contributions of the bytes from a position on.
    #[inline(always)]
    fn sum(&self, place: usize, bytes: &[u8]) -> u32 {
        let places = self.places.get(place..).unwrap_or_default();
        let sums = places.iter().zip(bytes);
        sums.fold(0, |hash, (sums, byte)| hash ^ sums[usize::from(*byte)])
    }
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub mod tests;
