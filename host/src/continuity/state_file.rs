//! The memory file that holds the state.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::{Digest as _, Sha256};

use super::error::OfferError;
use super::limits::{MAX_STATE, VERSION};

/// The first bytes of the file. The header has this magic, the version, whether the state was
/// taken, the length of the state, and the checksum of all but whether it was taken.
const MAGIC: [u8; 8] = *b"manatee\x16";
const TAKEN_AT: u64 = 12;
const HEADER: usize = 56;

/// A file with a state.
#[derive(Debug)]
pub struct StateFile(File);

impl StateFile {
    /// Writes a state to a new memory file, whose length is sealed.
    pub fn write(state: &[u8], version: u32) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("manatee-state", flags)?);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&version.to_le_bytes());
        header[16..24].copy_from_slice(&(state.len() as u64).to_le_bytes());
        let sum = checksum(&header, state);
        header[24..].copy_from_slice(&sum);
        file.write_all_at(&header, 0)?;
        file.write_all_at(state, HEADER as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file.into())
    }

    /// Reads the state in a file, once, and checks that it is complete and unchanged.
    pub fn read(file: OwnedFd) -> Result<(Self, Vec<u8>), OfferError> {
        let file = File::from(file);
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(OfferError::NoState("it is no regular file"));
        }
        if facts.len() > (HEADER + MAX_STATE) as u64 {
            return Err(OfferError::TooLong(facts.len()));
        }
        let mut header = [0; HEADER];
        let mut bytes = vec![0; facts.len() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        if bytes.len() < HEADER {
            return Err(OfferError::NoState("it is too short"));
        }
        let state = bytes.split_off(HEADER);
        header.copy_from_slice(&bytes);
        if header[..8] != MAGIC {
            return Err(OfferError::NoState("it begins with something else"));
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let version = word(8);
        if !(1..=VERSION).contains(&version) {
            return Err(OfferError::Version(version));
        }
        let length = u64::from(word(16)) | u64::from(word(20)) << 32;
        if length != state.len() as u64 {
            return Err(OfferError::NoState(
                "it was cut, or has more than it should",
            ));
        }
        if header[24..] != checksum(&header, &state) {
            return Err(OfferError::Checksum);
        }
        if word(TAKEN_AT as usize) != 0 {
            return Err(OfferError::Taken);
        }
        Ok((Self(file), state))
    }

    /// Marks, for all who share the file, whether the device was taken over.
    pub fn set_taken(&self, taken: bool) -> io::Result<()> {
        self.0
            .write_all_at(&u32::from(taken).to_le_bytes(), TAKEN_AT)
    }
}

fn checksum(header: &[u8; HEADER], state: &[u8]) -> [u8; 32] {
    let mut sum = Sha256::new();
    sum.update(&header[..TAKEN_AT as usize]);
    sum.update(&header[16..24]);
    sum.update(state);
    sum.finalize().into()
}
