//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), in this machine's byte order.
//!
//! They are written as packets pass, so none allocates by itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manatee::endpoint::{Direction, Passed};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// 10^-9 s.
const NANOSECONDS: u8 = 9;

const END_OF_OPTIONS: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const EPB_QUEUE: u16 = 6;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// The most bytes of a packet's block, without the packet.
pub const OVERHEAD: usize = 80;

/// A time in pcapng's form: nanoseconds since 1970, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// Returns the current time.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::after(since.unwrap_or_default())
    }

    fn after(since: Duration) -> Self {
        // Until the year 2554.
        Self(since.as_nanos() as u64)
    }

    /// Returns its two 32-bit halves, the upper one first.
    fn bytes(self) -> [u8; 8] {
        let [high, low] = [(self.0 >> 32) as u32, self.0 as u32].map(u32::to_ne_bytes);
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&high);
        bytes[4..].copy_from_slice(&low);
        bytes
    }
}

/// The counters of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    pub begun: Stamp,
    pub ended: Stamp,
    pub packets: u64,
    pub dropped: u64,
}

/// Begins a section of one interface.
pub fn begin(out: &mut Vec<u8>, program: &str, interface: &str, snaplen: u32) {
    block(out, SECTION_HEADER, |out| {
        out.extend_from_slice(&BYTE_ORDER.to_ne_bytes());
        for version in [1u16, 0] {
            out.extend_from_slice(&version.to_ne_bytes());
        }
        // Its length is unknown.
        out.extend_from_slice(&u64::MAX.to_ne_bytes());
        option(out, SHB_USERAPPL, program.as_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
    block(out, INTERFACE_DESCRIPTION, |out| {
        for half in [ETHERNET, 0] {
            out.extend_from_slice(&half.to_ne_bytes());
        }
        out.extend_from_slice(&snaplen.to_ne_bytes());
        option(out, IF_NAME, interface.as_bytes());
        option(out, IF_TSRESOL, &[NANOSECONDS]);
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Adds a packet, and the number that were lost before it.
pub fn packet(out: &mut Vec<u8>, packet: &Passed<'_>, at: Stamp, dropped: u64) {
    block(out, ENHANCED_PACKET, |out| {
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&at.bytes());
        // A packet is shorter than 4 GiB.
        out.extend_from_slice(&(packet.bytes.len() as u32).to_ne_bytes());
        out.extend_from_slice(&packet.length.to_ne_bytes());
        out.extend_from_slice(packet.bytes);
        pad(out);
        let flags = match packet.direction {
            Direction::FromGuest => OUTBOUND,
            Direction::ToGuest => INBOUND,
        };
        option(out, EPB_FLAGS, &flags.to_ne_bytes());
        if dropped > 0 {
            option(out, EPB_DROPCOUNT, &dropped.to_ne_bytes());
        }
        option(out, EPB_QUEUE, &u32::from(packet.queue).to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Adds the counters of a capture, which end the file.
pub fn end(out: &mut Vec<u8>, statistics: &Statistics) {
    block(out, INTERFACE_STATISTICS, |out| {
        let Statistics {
            begun,
            ended,
            packets,
            dropped,
        } = statistics;
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&ended.bytes());
        option(out, ISB_STARTTIME, &begun.bytes());
        option(out, ISB_ENDTIME, &ended.bytes());
        // Lost packets count as received.
        option(out, ISB_IFRECV, &(packets + dropped).to_ne_bytes());
        option(out, ISB_IFDROP, &dropped.to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Adds a block with its length at both ends.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    body(out);
    // A block is shorter than 4 GiB.
    let length = ((out.len() - begin + 4) as u32).to_ne_bytes();
    out[begin + 4..begin + 8].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_ne_bytes());
    out.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    out.extend_from_slice(value);
    pad(out);
}

/// Pads to a multiple of four bytes, as the format requires of blocks.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns kind and body of each block of a file.
    fn blocks(mut rest: &[u8]) -> Vec<(u32, &[u8])> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
        let mut blocks = Vec::new();
        while !rest.is_empty() {
            let length = word(&rest[4..8]) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(&rest[length - 4..length]) as usize, length);
            blocks.push((word(&rest[..4]), &rest[8..length - 4]));
            rest = &rest[length..];
        }
        blocks
    }

    #[test]
    fn blocks_are_whole_and_bounded() {
        let mut file = Vec::new();
        begin(&mut file, "manatee 1", "port 0 (tap=tap0)", 64);
        let whole = [7; 64];
        for length in 0..=64 {
            let passed = Passed {
                direction: Direction::ToGuest,
                queue: 5,
                length: 1514,
                bytes: &whole[..length],
            };
            let before = file.len();
            packet(&mut file, &passed, Stamp(1 << 33 | 5), u64::MAX);
            assert!(file.len() - before <= length + OVERHEAD);
        }
        let statistics = Statistics {
            begun: Stamp(1),
            ended: Stamp(2),
            packets: 65,
            dropped: 3,
        };
        end(&mut file, &statistics);
        let blocks = blocks(&file);
        assert_eq!(blocks.len(), 68);
        let (kind, body) = blocks[3];
        assert_eq!(kind, ENHANCED_PACKET);
        let word = |index: usize| u32::from_ne_bytes(body[4 * index..][..4].try_into().unwrap());
        let head: Vec<_> = (0..5).map(word).collect();
        assert_eq!(head, [0, 2, 5, 1, 1514]);
        assert_eq!(body[20..24], [7, 0, 0, 0]);
    }
}
