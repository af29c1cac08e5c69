//! One connection of a VMM: messages with their descriptors in, answers out.

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

/// The most that is received at a time, unless a message is longer: a doorbell has 40
/// bytes.
pub const CHUNK: usize = 512;
/// The most descriptors that the kernel lets through with a byte (`SCM_MAX_FD`). Those that
/// there is no room for it would close on the spot, and closing may block.
const MAX_PASSED: usize = 253;
/// How long the VMM that sends descriptors waits for those before to be closed.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);
/// How long to look for the next message before going to sleep. A driver rings
/// several doorbells in a row, and whoever wakes a thread pays for that: it would
/// be most of what a doorbell costs QEMU's virtual CPU. Meanwhile all others who
/// want the processor get it: QEMU's own threads, and the device's.
const PATIENCE: Duration = Duration::from_micros(64);

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The kernel's.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// The VMM went in the middle of a message.
    #[error("the VMM went in the middle of a message")]
    Cut,
    /// No message has this size, so nobody knows where the next begins.
    #[error("a message claims to have {0} bytes")]
    Size(u32),
    /// More descriptors than were announced.
    #[error("more than {MAX_DESCRIPTORS} descriptors came with a message")]
    Descriptors,
    /// The kernel had no numbers for those that came.
    #[error(
        "a descriptor came, and this process has no room for another: raise its limit of open \
         files (`ulimit -n`, or LimitNOFILE= of its unit)"
    )]
    NoRoom,
    /// So many that were sent before take long to close.
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

/// What came of waiting.
#[derive(Debug)]
pub enum Received<'a> {
    /// A message.
    Message(Message<'a>),
    /// Nothing in time, or it is asked to stop.
    Nothing,
    /// The VMM has closed the connection.
    Closed,
}

/// A message.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it begins with.
    pub header: Header,
    /// What comes behind that.
    pub body: &'a [u8],
    /// The descriptors that came along.
    pub descriptors: Vec<Foreign>,
    /// Bytes before it that are carried out and not consumed; 0 without a journal.
    pub done: u32,
}

/// What was received and belongs to messages that are not complete, or were not looked at.
#[derive(Debug, Default)]
pub struct Unread {
    pub bytes: Vec<u8>,
    /// Descriptors, each with the place behind the byte that it came with.
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
    /// Received and not yet looked at are the bytes from `begin` to `end`.
    begin: usize,
    end: usize,
    /// How long to look for a message: not at all with one processor, which the
    /// VMM needs.
    patience: Duration,
    /// Bytes of the stream before `begin`.
    consumed: u64,
    /// Descriptors, each with the place in the stream behind the byte that it
    /// came with: it belongs to the message that has that byte.
    descriptors: VecDeque<(u64, Foreign)>,
}

/// Sends all of an answer.
///
/// # Errors
///
/// [`Broken`] if the VMM has gone.
pub fn send_all(socket: BorrowedFd<'_>, answer: &[u8]) -> Result<(), Broken> {
    let mut rest = answer;
    while !rest.is_empty() {
        let sent = retry_on_intr(|| send(socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[sent..];
    }
    Ok(())
}

impl<'a> Receiver<'a> {
    /// Creates a receiver over a blocking stream socket of which something was received
    /// already.
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

    /// Returns what was received and not looked at.
    pub fn into_unread(self) -> Unread {
        let consumed = self.consumed;
        let descriptors = self.descriptors.into_iter();
        Unread {
            bytes: self.input[self.begin..self.end].to_vec(),
            descriptors: descriptors.map(|(at, fd)| (at - consumed, fd)).collect(),
        }
    }

    /// Waits for the next message, no longer than until `deadline` if there is one, or until it
    /// is asked to stop. What was received in part is kept.
    ///
    /// # Errors
    ///
    /// [`Broken`]; there is nothing more to receive then.
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

    /// Receives something, of which `missing` bytes are needed at least. Returns
    /// how many bytes came, 0 if the VMM sends no more, None if nothing came in
    /// time.
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
        // Those of one message, and of the next that was received with its end.
        if self.descriptors.len() > 2 * MAX_DESCRIPTORS {
            return Err(Broken::Descriptors);
        }
        Ok(Some(received.bytes))
    }
}

/// Waits until there is something to receive. False if nothing comes before the
/// deadline, or it is asked to stop meanwhile.
fn readable_before(
    socket: BorrowedFd<'_>,
    halt: &Halt,
    deadline: Option<Instant>,
) -> Result<bool, Broken> {
    // Who knows of the request already waits for the deadline only.
    let news = match halt.is_asked() {
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
