//! The Internet checksum (RFC 1071).

use etherparse::checksum::Sum16BitWords;

use super::headers::{IpVersion, Transport};

/// Returns the folded, uncomplemented sum of the pseudo header (RFC 9293, 3.1; RFC 768; RFC 8200,
/// 8.1) of a packet with this IP header and `length` bytes of transport header and payload, for
/// its checksum field: the receiver of the packet completes it.
pub fn pseudo_header(
    version: IpVersion,
    ip_header: &[u8],
    transport: Transport,
    length: u16,
) -> [u8; 2] {
    // Source and destination are adjacent.
    let addresses = match version {
        IpVersion::V4 => &ip_header[12..20],
        IpVersion::V6 => &ip_header[8..40],
    };
    let sum = Sum16BitWords::new()
        .add_slice(addresses)
        .add_2bytes([0, transport.number()])
        .add_2bytes(length.to_be_bytes());
    (!sum.ones_complement()).to_ne_bytes()
}

/// Returns the checksum of an IPv4 header, whatever its checksum field holds.
pub fn ipv4_header(header: &[u8]) -> [u8; 2] {
    let sum = Sum16BitWords::new()
        .add_slice(&header[..10])
        .add_slice(&header[12..]);
    sum.ones_complement().to_ne_bytes()
}

/// Returns whether the checksum that the bytes contain is right.
pub fn is_good(bytes: &[u8]) -> bool {
    Sum16BitWords::new().add_slice(bytes).ones_complement() == 0
}

/// Returns the checksum of some bytes, ready for the checksum field.
///
/// Never zero: in UDP that means that there is none (RFC 768), and the two
/// zeros of ones' complement are the same to whoever verifies. Linux writes
/// it so for every protocol (`CSUM_MANGLED_0`).
pub fn of(bytes: &[u8]) -> [u8; 2] {
    match !fold(sum(bytes)) {
        0 => [0xff; 2],
        sum => sum.to_ne_bytes(),
    }
}

/// Numbers that are added at once: as wide as vectors get.
const LANES: usize = 16;
/// Bytes of a lane's number.
const WORD: usize = size_of::<u32>();

/// Returns the sum of all bytes as 16-bit numbers in the machine's order, the last one
/// filled up with a zero, before carries are added to it. Numbers may be added
/// four bytes at a time, and in any order of bytes (RFC 1071, section 2).
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; LANES];
    let mut chunks = bytes.chunks_exact(LANES * WORD);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<WORD>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, last) = chunks.remainder().as_chunks::<WORD>();
    let mut end = [0; WORD];
    end[..last.len()].copy_from_slice(last);
    // Far from an overflow: a lane adds a 32-bit number for 64 bytes.
    let words = words.iter().chain([&end]);
    let rest: u64 = words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    rest + lanes.iter().sum::<u64>()
}

/// Adds carries until there are none left.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Computes a checksum by RFC 1071's definition.
    fn definition(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        match !sum as u16 {
            0 => [0xff; 2],
            sum => sum.to_be_bytes(),
        }
    }

    proptest! {
        #[test]
        fn the_sum_is_the_defined_one(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            skip in 0usize..9,
        ) {
            let bytes = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(of(bytes), definition(bytes));
        }
    }

    #[test]
    fn carries_are_not_lost() {
        for length in [0, 1, 2, 3, 63, 64, 65, 65_535] {
            let ones = vec![0xff; length];
            assert_eq!(of(&ones), definition(&ones), "{length} bytes");
        }
    }
}
