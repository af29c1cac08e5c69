//! The Toeplitz hash of receive side scaling.
//!
//! Every bit of the input that is set adds (exclusive or) the 32 bits of the key
//! that begin at its place. What a byte of the input adds is therefore one of 256
//! values for each place, which are looked up here.

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

    /// Hashes two pieces of input, of which the second follows the first; what is
    /// longer than the input of any kind of packet is left out.
    #[inline]
    pub fn hash(&self, first: &[u8], second: &[u8]) -> u32 {
        let bytes = first.iter().chain(second);
        let sums = self.places.iter().zip(bytes);
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
