//! One connection of a VMM: receives messages with their descriptors, sends answers.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::thread::{available_parallelism, yield_now};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use zerocopy::FromBytes;

use crate::halt::Halt;
use crate::journal::Journal;
use crate::peek::Arrivals;
use crate::wire::{Header, MAX_DESCRIPTORS, MAX_KEPT_MESSAGE, MAX_MESSAGE};
use manatee_common::closer::{self, Foreign};

/// The most that is received at a time, unless a message is longer. A doorbell write is a
/// message of 40 bytes.
pub const CHUNK: usize = 512;
/// The most descriptors that the kernel passes with a byte (`SCM_MAX_FD`). If there were room for
/// fewer, the kernel would close the rest at once, and closing may block.
const MAX_PASSED: usize = 253;
/// How long a VMM that sends descriptors waits until earlier ones are closed.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);
/// How long to poll for the next message before sleeping. A driver rings several doorbells in
/// a row, and whoever wakes a thread pays for that: it would be most of what a doorbell costs
/// QEMU's virtual CPU. Polling yields the processor to QEMU's own threads, and the device's.
const PATIENCE: Duration = Duration::from_micros(64);

/// Why a connection can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A system call failed.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// The VMM disconnected in the middle of a message.
    #[error("the VMM disconnected in the middle of a message")]
    Cut,
    /// No message has this size, so that the start of the next one is unknown.
    #[error("a message claims to have {0} bytes")]
    Size(u32),
    /// There are more descriptors than were announced.
    #[error("more than {MAX_DESCRIPTORS} descriptors came with a message")]
    Descriptors,
    /// This process is out of descriptor numbers.
    #[error(
        "a descriptor came, and this process has no room for another: raise its limit of open \
         files (`ulimit -n`, or LimitNOFILE= of its unit)"
    )]
    NoRoom,
    /// Too many earlier descriptors are still being closed.
    #[error(
        "descriptors came while {waiting} wait to be closed: end whatever holds that up, \
         such as sockets that linger or a file system that does not answer",
        waiting = closer::MAX_WAITING
    )]
    Closing,
    /// Descriptors in the middle of more than a message.
    #[error(
        "descriptors came in the middle of more bytes than a message has: send those of a \
         message with its first byte, and each message by itself"
    )]
    Packet,
    /// The connection is not as its journal says.
    #[error("{0}, so the journal of the session is not of this connection")]
    Unlike(&'static str),
}

impl From<Errno> for Broken {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno.into())
    }
}

/// The result of waiting.
#[derive(Debug)]
pub enum Received<'a> {
    /// A message.
    Message(Message<'a>),
    /// Nothing in time, or a stop was requested.
    Nothing,
    /// The VMM has closed the connection.
    Closed,
}

/// A message.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// Everything after the header.
    pub body: &'a [u8],
    /// The descriptors that came along.
    pub descriptors: Vec<Foreign>,
    /// Bytes before it that are carried out and not consumed; 0 without a journal.
    pub done: u32,
}

/// Bytes and descriptors that were received and not processed yet.
#[derive(Debug, Default)]
pub struct Unread {
    pub bytes: Vec<u8>,
    /// Descriptors, each with the offset of the byte after the one that it came with.
    pub descriptors: VecDeque<(u64, Foreign)>,
}

/// Takes a connected socket's bytes apart into messages.
pub struct Receiver<'a> {
    socket: BorrowedFd<'a>,
    halt: &'a Halt,
    /// Where it is noted what is consumed. With a journal bytes are peeked at, and `input`
    /// begins with the first that is not consumed.
    journal: Option<&'a dyn Journal>,
    /// Made when it is waited for more than what was peeked at.
    arrivals: Option<Arrivals>,
    /// Room for what is received. It keeps its size while a message comes in, since what
    /// is made room for is zeroed.
    input: Vec<u8>,
    /// The bytes from `begin` to `end` are received and not processed yet.
    begin: usize,
    end: usize,
    /// The time to poll for a message: not at all with one processor, which the VMM needs.
    patience: Duration,
    /// Bytes of the stream before `begin`.
    consumed: u64,
    /// Descriptors, each with the stream offset of the byte after the one that it came with: it
    /// belongs to the message that contains that byte.
    descriptors: VecDeque<(u64, Foreign)>,
}

/// Sends all of an answer.
///
/// # Errors
///
/// [`Broken`] if the VMM has disconnected.
pub fn send_all(socket: BorrowedFd<'_>, answer: &[u8]) -> Result<(), Broken> {
    let mut rest = answer;
    while !rest.is_empty() {
        let sent = retry_on_intr(|| send(socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[sent..];
    }
    Ok(())
}

impl<'a> Receiver<'a> {
    /// Creates a receiver over a blocking stream socket from which `unread` was received already.
    pub fn new(socket: BorrowedFd<'a>, halt: &'a Halt, unread: Unread) -> Self {
        Self {
            socket,
            halt,
            journal: None,
            arrivals: None,
            begin: 0,
            end: unread.bytes.len(),
            input: unread.bytes,
            patience: match available_parallelism() {
                Ok(processors) if processors.get() > 1 => PATIENCE,
                _ => Duration::ZERO,
            },
            consumed: 0,
            descriptors: unread.descriptors,
        }
    }

    /// Returns what was received and not processed.
    pub fn into_unread(self) -> Unread {
        let consumed = self.consumed;
        let descriptors = self.descriptors.into_iter();
        Unread {
            bytes: self.input[self.begin..self.end].to_vec(),
            descriptors: descriptors.map(|(at, fd)| (at - consumed, fd)).collect(),
        }
    }

    /// Waits for the next message, until `deadline` if there is one, or until a stop is
    /// requested. Keeps a message that was received in part.
    ///
    /// # Errors
    ///
    /// [`Broken`]; nothing more can be received then.
    pub fn receive(&mut self, deadline: Option<Instant>) -> Result<Received<'_>, Broken> {
        let header = loop {
            let missing = match self.buffered_header()? {
                Some(header) if self.buffered() >= header.size as usize => break header,
                Some(header) => header.size as usize - self.buffered(),
                None => size_of::<Header>() - self.buffered(),
            };
            match self.fill(missing, deadline)? {
                None => return Ok(Received::Nothing),
                Some(0) if self.buffered() == 0 => return Ok(Received::Closed),
                Some(0) => return Err(Broken::Cut),
                Some(_) => {}
            }
        };
        let size = header.size as usize;
        // It is small: see `fill`.
        let done = self.journal.map_or(0, |_| self.begin as u32);
        let body = self.begin + size_of::<Header>()..self.begin + size;
        self.begin += size;
        self.consumed += size as u64;
        let end = self.consumed;
        let own = self.descriptors.partition_point(|(at, _)| *at <= end);
        if own > MAX_DESCRIPTORS {
            return Err(Broken::Descriptors);
        }
        if own > 0 && !closer::wait_for_room(CLOSING_PATIENCE) {
            return Err(Broken::Closing);
        }
        let descriptors = self.descriptors.drain(..own).map(|(_, fd)| fd).collect();
        Ok(Received::Message(Message {
            header,
            body: &self.input[body],
            descriptors,
            done,
        }))
    }

    fn buffered(&self) -> usize {
        self.end - self.begin
    }

    /// Returns the header of the next message, if all of it has been received.
    fn buffered_header(&self) -> Result<Option<Header>, Broken> {
        let Ok((header, _)) = Header::read_from_prefix(&self.input[self.begin..self.end]) else {
            return Ok(None);
        };
        let most = self.journal.map_or(MAX_MESSAGE, |_| MAX_KEPT_MESSAGE);
        if (size_of::<Header>()..=most).contains(&(header.size as usize)) {
            Ok(Some(header))
        } else {
            Err(Broken::Size(header.size))
        }
    }

    /// Receives at least one byte; `missing` bytes are needed for the message. Returns how many
    /// bytes arrived, 0 at the end of the stream, None if nothing arrived in time.
    fn fill(&mut self, missing: usize, deadline: Option<Instant>) -> Result<Option<usize>, Broken> {
        match self.journal {
            Some(journal) => self.consume_done(journal)?,
            None => self.compact(),
        }
        let room = self.end + missing.max(CHUNK);
        self.make_room(room);
        let before = self.descriptors.len();
        let mut received = self.receive_into(self.end..room, deadline)?;
        let all = self.end + received.unwrap_or(0) == room;
        if self.journal.is_some() && all && self.descriptors.len() > before {
            received = self.peek_at_packet(before)?;
        }
        self.end += received.unwrap_or(0);
        Ok(received)
    }

    /// Moves what was not looked at to the beginning.
    fn compact(&mut self) {
        self.input.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.buffered());
    }

    fn make_room(&mut self, room: usize) {
        if room <= 2 * CHUNK && self.input.len() > 2 * CHUNK {
            self.input.truncate(2 * CHUNK);
            self.input.shrink_to_fit();
        }
        if self.input.len() < room {
            self.input.resize(room, 0);
        }
    }

    fn receive_into(
        &mut self,
        place: Range<usize>,
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, Broken> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // The stream's place that `input` begins with.
        let head = self.consumed - self.begin as u64;
        let begin = place.start;
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        if self.journal.is_some() {
            flags |= RecvFlags::PEEK;
        }
        let quick = flags | RecvFlags::DONTWAIT;
        let until = Instant::now() + self.patience;
        let until = deadline.map_or(until, |deadline| until.min(deadline));
        let mut in_vain = false;
        let received = loop {
            let mut room = [IoSliceMut::new(&mut self.input[place.clone()])];
            match recvmsg(self.socket, &mut room, &mut ancillary, quick) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < until => yield_now(),
                // A peek must not wait: kernels before 6.19 begin at the head again when more
                // comes meanwhile.
                Err(Errno::AGAIN) if self.journal.is_some() => {
                    if !self.arrives_before(deadline, in_vain)? {
                        return Ok(None);
                    }
                    in_vain = true;
                }
                Err(Errno::AGAIN) => {
                    if !readable_before(self.socket, self.halt, deadline)? {
                        return Ok(None);
                    }
                    break retry_on_intr(|| {
                        recvmsg(self.socket, &mut room, &mut ancillary, flags)
                    })?;
                }
                received => break received?,
            }
        };
        let at = head + (begin + received.bytes) as u64;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors
                    .extend(descriptors.map(|fd| (at, Foreign::new(fd))));
            }
        }
        // There is room for all that a message can have.
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Broken::NoRoom);
        }
        // Descriptors of one message, and of the next whose beginning was received with its end.
        if self.descriptors.len() > 2 * MAX_DESCRIPTORS {
            return Err(Broken::Descriptors);
        }
        Ok(Some(received.bytes))
    }
}

/// Waits until there is something to receive. Returns false if the deadline passes first or
/// a stop is requested.
fn readable_before(
    socket: BorrowedFd<'_>,
    halt: &Halt,
    deadline: Option<Instant>,
) -> Result<bool, Broken> {
    // The caller has seen the request to stop: wait for its deadline only.
    let news = match halt.is_asked() && deadline.is_some() {
        true => PollFlags::empty(),
        false => PollFlags::IN,
    };
    let mut fds = [
        PollFd::from_borrowed_fd(socket, PollFlags::IN),
        PollFd::new(halt, news),
    ];
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => {
                ready?;
                return Ok(!fds[0].revents().is_empty());
            }
        }
    }
}

mod kept;
#[cfg(test)]
mod tests;
