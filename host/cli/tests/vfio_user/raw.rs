//! Messages that the crate's client would not send.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const RESET: u16 = 13;

pub const NO_REPLY: u32 = 1 << 4;

/// The most descriptors that one call can send (`SCM_MAX_FD`).
const MAX_SENT: usize = 253;

const HEADER: usize = 16;

/// Returns a message with a correct header.
pub fn message(command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    claiming((HEADER + body.len()) as u32, command, flags, body)
}

/// Returns a message whose header claims `size` bytes.
pub fn claiming(size: u32, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    [
        words(&[u32::from(command) << 16, size, flags, 0]),
        body.to_vec(),
    ]
    .concat()
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn region_access(offset: u64, region: u32, count: u32) -> Vec<u8> {
    [offset.to_le_bytes().to_vec(), words(&[region, count])].concat()
}

pub fn dma_map(flags: u32, address: u64, size: u64) -> Vec<u8> {
    let places = [0, address, size].map(u64::to_le_bytes).concat();
    [words(&[32, flags]), places].concat()
}

pub fn dma_unmap(flags: u32, address: u64, size: u64) -> Vec<u8> {
    let range = [address, size].map(u64::to_le_bytes).concat();
    [words(&[24, flags]), range].concat()
}

/// A connection that sends any bytes.
pub struct Raw(UnixStream);

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Sends bytes with descriptors.
    pub fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let flags = SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, flags);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// As [`ask`](Self::ask), with descriptors.
    pub fn ask_with(
        &mut self,
        command: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>, u32> {
        self.send_with(&message(command, 0, body), fds);
        self.answer()
    }

    /// Returns the body of the answer, or the error of a refusal.
    pub fn answer(&mut self) -> Result<Vec<u8>, u32> {
        match self.whole_answer() {
            (None, body) => Ok(body),
            (Some(errno), _) => Err(errno),
        }
    }

    /// Returns the error, if it is a refusal, and the body of the answer.
    pub fn whole_answer(&mut self) -> (Option<u32>, Vec<u8>) {
        let mut header = [0; HEADER];
        self.0.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; word(4) as usize - HEADER];
        self.0.read_exact(&mut body).unwrap();
        let refused = word(8) & (1 << 5) != 0;
        (refused.then_some(word(12)), body)
    }

    pub fn ask(&mut self, command: u16, body: &[u8]) -> Result<Vec<u8>, u32> {
        self.send(&message(command, 0, body)).unwrap();
        self.answer()
    }

    /// Shuts writing down, and waits until the server closes the connection.
    pub fn finish(mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        // If the server has unread data, the connection is reset.
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("not closed"),
            _ => {}
        }
    }
}
