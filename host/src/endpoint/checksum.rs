//! The Internet checksum (RFC 1071).

use etherparse::checksum::Sum16BitWords;

use super::headers::{IpVersion, Transport};
use crate::memory::{Fault, GuestMemory, Segment, Span};

/// How many bytes of guest memory are summed at once. Even, so that a chunk
/// ends at a word's end; small enough to stay in the first-level cache.
const CHUNK: usize = 4096;

/// The sum of the pseudo header (RFC 9293, 3.1; RFC 768; RFC 8200, 8.1) of the
/// packet whose IP header is given and whose transport part is `length` bytes
/// long, as it goes into the checksum field for the sum to be completed:
/// folded, not complemented, in the bytes' order.
pub fn pseudo_header(
    version: IpVersion,
    ip_header: &[u8],
    transport: Transport,
    length: u16,
) -> [u8; 2] {
    // Source and destination lie side by side.
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

/// The checksum of an IPv4 header, whatever its checksum field holds.
pub fn ipv4_header(header: &[u8]) -> [u8; 2] {
    let sum = Sum16BitWords::new()
        .add_slice(&header[..10])
        .add_slice(&header[12..]);
    sum.ones_complement().to_ne_bytes()
}

/// Whether bytes that hold their own checksum are right.
pub fn is_good(bytes: &[u8]) -> bool {
    Sum16BitWords::new().add_slice(bytes).ones_complement() == 0
}

/// The checksum of all bytes of `span`, ready for the checksum field.
///
/// Never zero: in UDP that means that there is none (RFC 768), and the two
/// zeros of ones' complement are the same to whoever verifies. Linux writes
/// it so for every protocol (`CSUM_MANGLED_0`).
///
/// The bytes are copied a chunk at a time, since nobody may hold a reference
/// to memory that the guest changes.
///
/// # Errors
///
/// A [`Fault`] if a segment can't be read.
pub fn of_guest_memory(
    memory: &GuestMemory,
    mut span: Span<impl Iterator<Item = Segment>>,
) -> Result<[u8; 2], Fault> {
    let mut chunk = [0; CHUNK];
    let mut sum = Sum16BitWords::new();
    loop {
        let length = span.read(memory, &mut chunk)?;
        sum = sum.add_slice(&chunk[..length]);
        if length < CHUNK {
            return Ok(sum.to_ones_complement_with_no_zero().to_ne_bytes());
        }
    }
}
