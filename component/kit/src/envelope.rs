//! The envelope of a saved state, the same for every kind of device.
//!
//! A saved state is a CBOR map (RFC 8949) with the name of the format, its
//! version, a checksum, and the state itself as CBOR in a byte string. Every
//! field has a number that is never used again. The checksum detects damage,
//! but anybody can compute one: a device validates the whole state before it
//! uses any of it.

use alloc::vec::Vec;
use core::fmt;

use minicbor::{Decode, Encode};

/// Longest saved state in bytes.
pub const MAX_SIZE: usize = 1 << 20;

/// Why a state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The device has no ports yet, or was used already.
    NotConfigured,
    /// A version that this build does not read.
    Version(u32),
    /// It is not a state, is damaged, or contradicts itself.
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
            Self::Version(version) => {
                write!(
                    f,
                    "the state has format {version}, which this build does not read"
                )
            }
            Self::Malformed(what) => write!(f, "the state is malformed: {what}"),
            Self::Mismatch(what) => write!(f, "the state is another device's: {what}"),
        }
    }
}

/// Checks that a condition holds.
///
/// # Errors
///
/// [`RestoreError::Malformed`] with `what` if it does not.
pub fn ensure(holds: bool, what: &'static str) -> Result<(), RestoreError> {
    if holds {
        Ok(())
    } else {
        Err(RestoreError::Malformed(what))
    }
}

/// A format of saved states.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// The version that this build writes.
    pub writes: u32,
    /// The versions that this build reads.
    pub reads: &'static [u32],
}

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

impl Format {
    /// Puts an encoded state into its envelope.
    #[must_use]
    pub fn seal(&self, state: &[u8]) -> Vec<u8> {
        encode(&Envelope {
            format: self.name,
            version: self.writes,
            checksum: crc32fast::hash(state),
            state,
        })
    }

    /// Takes an encoded state out of its envelope.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Version`] if this build does not read the version,
    /// [`RestoreError::Malformed`] if it is no such envelope or its checksum is
    /// wrong.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], RestoreError> {
        ensure(bytes.len() <= MAX_SIZE, "it is longer than 1 MiB")?;
        let envelope: Envelope<'_> = decode(bytes, "it is not a saved state")?;
        ensure(
            envelope.format == self.name,
            "it is a state of something else",
        )?;
        if !self.reads.contains(&envelope.version) {
            return Err(RestoreError::Version(envelope.version));
        }
        ensure(
            crc32fast::hash(envelope.state) == envelope.checksum,
            "its checksum is wrong",
        )?;
        Ok(envelope.state)
    }
}

/// Encodes a state or a part of one.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Neither writing to a vector nor encoding any of the parts can fail.
    let _ = minicbor::encode(value, &mut bytes);
    bytes
}

/// Decodes all of `bytes`; `what` is the error's text.
///
/// # Errors
///
/// [`RestoreError::Malformed`] if that fails, or bytes are left.
pub fn decode<'a, T: Decode<'a, ()>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, RestoreError> {
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

    const FORMAT: Format = Format {
        name: "test",
        writes: 1,
        reads: &[1],
    };

    #[test]
    fn any_flipped_bit_and_any_cut_is_detected() {
        let bytes = FORMAT.seal(b"a state");
        assert_eq!(FORMAT.open(&bytes), Ok(&b"a state"[..]));
        for at in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(FORMAT.open(&damaged).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(FORMAT.open(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn other_versions_and_formats_are_named() {
        let newer = Format {
            writes: 99,
            ..FORMAT
        };
        let refused = FORMAT.open(&newer.seal(b"")).unwrap_err();
        assert_eq!(refused, RestoreError::Version(99));
        assert!(format!("{refused}").contains("99"));
        let other = Format {
            name: "virtio-net",
            ..FORMAT
        };
        let refused = FORMAT.open(&other.seal(b"")).unwrap_err();
        assert!(format!("{refused}").contains("something else"));
    }
}
