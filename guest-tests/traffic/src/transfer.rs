//! Bytes through a TCP connection, with their SHA-256 sum at both ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::shared::Shared;

const CHUNK: usize = 64 << 10;

/// The bytes of a connection, as seen by one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The number of bytes.
    pub bytes: u64,
    /// Their SHA-256 sum in hexadecimal.
    pub sha256: String,
}

/// Sends bytes until told to stop.
pub fn send(mut stream: &TcpStream, shared: &Shared) -> Result<Sum> {
    let mut sum = Summing::default();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chunk = vec![0; CHUNK];
    while !shared.stopped() {
        for word in chunk.chunks_exact_mut(8) {
            random = xorshift(random);
            word.copy_from_slice(&random.to_le_bytes());
        }
        stream.write_all(&chunk).context("cannot send over TCP")?;
        sum.add(&chunk);
    }
    stream
        .shutdown(Shutdown::Write)
        .context("cannot end a TCP stream")?;
    Ok(sum.finish())
}

/// Receives bytes until the other end has sent its last.
pub fn receive(mut stream: &TcpStream) -> Result<Sum> {
    let mut sum = Summing::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk).context("cannot receive over TCP")? {
            0 => return Ok(sum.finish()),
            count => sum.add(&chunk[..count]),
        }
    }
}

#[derive(Default)]
struct Summing {
    bytes: u64,
    digest: Sha256,
}

impl Summing {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.digest.update(bytes);
    }

    fn finish(self) -> Sum {
        let digest = self.digest.finalize();
        Sum {
            bytes: self.bytes,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// Returns the next number of Marsaglia's generator: the bytes need not be secret, only
/// varied.
fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}
