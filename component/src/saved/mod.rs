//! The saved state: what it looks like, apart from what it means.
//!
//! A state is a CBOR map (RFC 8949) with the name of the format, its version,
//! a checksum, and the state itself as a CBOR map in a byte string. Every
//! field has a number that is never used again. A build reads the versions
//! that [`READS`] lists; whatever a restored device could trip over is checked
//! where it is restored, because a state comes from outside.

use alloc::vec::Vec;
use core::fmt;

use minicbor::{Decode, Encode};

mod nic;
mod pages;
mod queues;

pub use nic::{InFlight, Nic, Object, Posted, Steering, Vport};
pub use pages::Pages;
pub use queues::{Cq, Eq, Hwc, Queues, Region, Regions, Ring, Wq};

/// The version that this build writes.
pub const VERSION: u32 = 1;
/// The versions that this build reads.
pub const READS: [u32; 1] = [VERSION];
/// Longest state, in bytes.
pub const MAX_SIZE: usize = 1 << 20;

/// No counter reaches this.
pub const COUNTABLE: u64 = 1 << 62;

const FORMAT: &str = "manatee-mana";

/// Why a state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The device has no ports yet, or is past its beginning.
    NotConfigured,
    /// A version that this build does not read.
    Version(u32),
    /// It is no state, it is damaged, or it contradicts itself.
    Malformed(&'static str),
    /// It is the state of a device with other ports.
    Mismatch(&'static str),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => {
                f.write_str("a state is restored right after `configure`, or after an older one")
            }
            Self::Version(version) => write!(
                f,
                "the state has format {version}; this build reads {READS:?}"
            ),
            Self::Malformed(what) => write!(f, "the state is malformed: {what}"),
            Self::Mismatch(what) => write!(f, "the state is another device's: {what}"),
        }
    }
}

/// Fails with [`RestoreError::Malformed`] unless a condition holds.
///
/// # Errors
///
/// If it does not.
pub fn ensure(holds: bool, what: &'static str) -> Result<(), RestoreError> {
    if holds {
        Ok(())
    } else {
        Err(RestoreError::Malformed(what))
    }
}

/// What is around a state.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Envelope<'a> {
    #[b(0)]
    format: &'a str,
    #[n(1)]
    version: u32,
    /// CRC-32 (IEEE 802.3) of `state`.
    #[n(2)]
    checksum: u32,
    #[b(3)]
    #[cbor(with = "minicbor::bytes")]
    state: &'a [u8],
}

/// The state of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct State {
    /// The shared-memory channel's aperture.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub shared_memory: [u8; 32],
    /// Offset and low half of a doorbell that is written in two halves.
    #[n(1)]
    pub doorbell_low: Option<(u64, u32)>,
    /// The hardware channel, if it is established.
    #[n(2)]
    pub hwc: Option<Hwc>,
    /// Requests wait for their turn.
    #[n(3)]
    pub hwc_waiting: bool,
    /// Handles of send objects with entries that wait for their turn.
    #[n(4)]
    pub waiting: Vec<u64>,
    /// Registered memory that no queue uses yet.
    #[n(5)]
    pub regions: Regions,
    /// All queues.
    #[n(6)]
    pub queues: Queues,
    /// The NIC.
    #[n(7)]
    pub nic: Nic,
    /// Accesses to BAR 0 that hit nothing.
    #[n(8)]
    pub stray_accesses: u64,
}

impl State {
    /// The state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        seal(&encode(self))
    }

    /// Reads a state. What the numbers mean is not checked here.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Version`] or [`RestoreError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        decode(open(bytes)?, "its content is not a device's state")
    }
}

/// Puts what is around a state around one that is encoded.
pub fn seal(state: &[u8]) -> Vec<u8> {
    encode(&Envelope {
        format: FORMAT,
        version: VERSION,
        checksum: crc32fast::hash(state),
        state,
    })
}

/// Takes away what is around a state, which is right.
///
/// # Errors
///
/// [`RestoreError::Version`] or [`RestoreError::Malformed`].
pub fn open(bytes: &[u8]) -> Result<&[u8], RestoreError> {
    ensure(bytes.len() <= MAX_SIZE, "it is longer than 1 MiB")?;
    let envelope: Envelope<'_> = decode(bytes, "it is not a saved state")?;
    ensure(envelope.format == FORMAT, "it is a state of something else")?;
    if !READS.contains(&envelope.version) {
        return Err(RestoreError::Version(envelope.version));
    }
    ensure(
        crc32fast::hash(envelope.state) == envelope.checksum,
        "its checksum is wrong",
    )?;
    Ok(envelope.state)
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to a vector can't fail, and no part encodes with conditions.
    let _ = minicbor::encode(value, &mut bytes);
    bytes
}

/// Decodes all of `bytes`.
fn decode<'a, T: Decode<'a, ()>>(bytes: &'a [u8], what: &'static str) -> Result<T, RestoreError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder
        .decode()
        .map_err(|_| RestoreError::Malformed(what))?;
    ensure(decoder.position() == bytes.len(), "bytes follow it")?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_state_comes_back_whole() {
        let state = State {
            doorbell_low: Some((0x1000, 7)),
            hwc_waiting: true,
            waiting: [3, 1 << 50].into(),
            ..State::default()
        };
        assert_eq!(State::from_bytes(&state.to_bytes()), Ok(state));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let bytes = State::default().to_bytes();
        for at in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(State::from_bytes(&damaged).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(State::from_bytes(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn other_versions_and_formats_are_named() {
        let state = encode(&State::default());
        let sealed = |format, version| {
            encode(&Envelope {
                format,
                version,
                checksum: crc32fast::hash(&state),
                state: &state,
            })
        };
        let newer = State::from_bytes(&sealed(FORMAT, 99)).unwrap_err();
        assert_eq!(newer, RestoreError::Version(99));
        assert!(format!("{newer}").contains("99"));
        let other = State::from_bytes(&sealed("virtio-net", VERSION)).unwrap_err();
        assert!(format!("{other}").contains("something else"));
    }
}
