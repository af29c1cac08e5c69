//! A client's connection: lines, with the descriptors that come with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use manatee_common::closer::close_elsewhere;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::limits::MAX_REQUEST;

/// The most descriptors of a request; the kernel drops others. It is above what any request
/// takes, so that too many can be refused with an error.
const MAX_DESCRIPTORS: usize = 4;
/// Bytes that are read at a time.
const CHUNK: usize = 4096;

/// The next input of a client.
pub enum Line {
    /// A request, without its line feed, and the descriptors that came with it.
    Request(Vec<u8>, Vec<OwnedFd>),
    /// A request longer than the limit.
    TooLong,
    /// The client is gone.
    End,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Bytes of the next lines that were read.
    buffer: Vec<u8>,
    /// How many of them are known to contain no line feed.
    looked_at: usize,
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// Returns the connection behind an accepted socket.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            looked_at: 0,
            descriptors: Vec::new(),
        }
    }

    /// Waits for a request.
    pub async fn next(&mut self) -> io::Result<Line> {
        loop {
            let unseen = &self.buffer[self.looked_at..];
            if let Some(length) = unseen.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_off(self.looked_at + length + 1);
                std::mem::swap(&mut line, &mut self.buffer);
                line.pop();
                self.looked_at = 0;
                return Ok(Line::Request(line, std::mem::take(&mut self.descriptors)));
            }
            self.looked_at = self.buffer.len();
            if self.looked_at > MAX_REQUEST {
                return Ok(Line::TooLong);
            }
            if self.read().await? == 0 {
                return Ok(Line::End);
            }
        }
    }

    /// Sends an answer, and a descriptor with its first byte.
    pub async fn send(&mut self, text: &[u8], descriptor: Option<OwnedFd>) -> io::Result<()> {
        let mut rest = text;
        if let Some(descriptor) = descriptor {
            let send = || send_with(&self.stream, text, descriptor.as_fd());
            let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
            rest = &text[sent..];
        }
        self.stream.write_all(rest).await
    }

    /// Reads more. Returns how much, 0 at the end.
    async fn read(&mut self) -> io::Result<usize> {
        let Self {
            stream,
            buffer,
            descriptors,
            ..
        } = self;
        let read = || {
            let room = (MAX_REQUEST + 1).saturating_sub(buffer.len()).min(CHUNK);
            let begin = buffer.len();
            buffer.resize(begin + room, 0);
            let received = receive(stream, &mut buffer[begin..], descriptors);
            let count = received.as_ref().copied().unwrap_or(0);
            buffer.truncate(begin + count);
            received
        };
        stream.async_io(Interest::READABLE, read).await
    }
}

impl Drop for Connection {
    /// Closes the descriptors of an incomplete request on another thread: a foreign socket may
    /// linger.
    fn drop(&mut self) {
        self.descriptors.drain(..).for_each(close_elsewhere);
    }
}

/// Sends as many bytes as there is room for, and a descriptor with them.
fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}

/// Receives bytes, and keeps the descriptors that arrive with them.
fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::other("too many descriptors for one request"));
    }
    Ok(received.bytes)
}
