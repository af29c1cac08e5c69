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

use super::wire::{Header, MAX_DESCRIPTORS, MAX_MESSAGE};
use crate::closer::{self, Foreign};

/// The most that is received at a time, unless a message is longer: a doorbell has 40
/// bytes.
const CHUNK: usize = 512;
/// The most descriptors that the kernel lets through with a byte (`SCM_MAX_FD`). Those that
/// there is no room for it would close on the spot, and closing may block.
const MAX_PASSED: usize = 253;
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
    /// Nothing in time.
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
}

/// Takes a connected socket's bytes apart into messages.
#[derive(Debug)]
pub struct Receiver<'a> {
    socket: BorrowedFd<'a>,
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
    /// Over a blocking stream socket.
    pub fn new(socket: BorrowedFd<'a>) -> Self {
        Self {
            socket,
            input: Vec::new(),
            begin: 0,
            end: 0,
            patience: match available_parallelism() {
                Ok(processors) if processors.get() > 1 => PATIENCE,
                _ => Duration::ZERO,
            },
            consumed: 0,
            descriptors: VecDeque::new(),
        }
    }

    /// Waits for the next message, no longer than until `deadline` if there is one.
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
        let body = self.begin + size_of::<Header>()..self.begin + size;
        self.begin += size;
        self.consumed += size as u64;
        let end = self.consumed;
        let own = self.descriptors.partition_point(|(at, _)| *at <= end);
        if own > MAX_DESCRIPTORS {
            return Err(Broken::Descriptors);
        }
        if own > 0 && !closer::has_room() {
            return Err(Broken::Closing);
        }
        let descriptors = self.descriptors.drain(..own).map(|(_, fd)| fd).collect();
        Ok(Received::Message(Message {
            header,
            body: &self.input[body],
            descriptors,
        }))
    }

    fn buffered(&self) -> usize {
        self.end - self.begin
    }

    /// The header of the next message, if all of it has been received.
    fn buffered_header(&self) -> Result<Option<Header>, Broken> {
        let Ok((header, _)) = Header::read_from_prefix(&self.input[self.begin..self.end]) else {
            return Ok(None);
        };
        if (size_of::<Header>()..=MAX_MESSAGE).contains(&(header.size as usize)) {
            Ok(Some(header))
        } else {
            Err(Broken::Size(header.size))
        }
    }

    /// Receives something, of which `missing` bytes are needed at least. Returns
    /// how many bytes came, 0 if the VMM sends no more, None if nothing came in
    /// time.
    fn fill(&mut self, missing: usize, deadline: Option<Instant>) -> Result<Option<usize>, Broken> {
        self.input.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.buffered());
        let room = self.end + missing.max(CHUNK);
        if room <= 2 * CHUNK && self.input.len() > 2 * CHUNK {
            self.input.truncate(2 * CHUNK);
            self.input.shrink_to_fit();
        }
        if self.input.len() < room {
            self.input.resize(room, 0);
        }
        let received = self.receive_into(self.end..room, deadline)?;
        self.end += received.unwrap_or(0);
        Ok(received)
    }

    fn receive_into(
        &mut self,
        place: Range<usize>,
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, Broken> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let begin = place.start;
        let mut room = [IoSliceMut::new(&mut self.input[place])];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let quick = flags | RecvFlags::DONTWAIT;
        let until = Instant::now() + self.patience;
        let until = deadline.map_or(until, |deadline| until.min(deadline));
        let received = loop {
            match recvmsg(self.socket, &mut room, &mut ancillary, quick) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < until => yield_now(),
                Err(Errno::AGAIN) => {
                    if !readable_before(self.socket, deadline)? {
                        return Ok(None);
                    }
                    break retry_on_intr(|| {
                        recvmsg(self.socket, &mut room, &mut ancillary, flags)
                    })?;
                }
                received => break received?,
            }
        };
        let at = self.consumed + (begin + received.bytes) as u64;
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
/// deadline; without one, receiving waits.
fn readable_before(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Broken> {
    let Some(deadline) = deadline else {
        return Ok(true);
    };
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSlice, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use zerocopy::IntoBytes;

    use super::*;

    fn message(id: u16, body: &[u8]) -> Vec<u8> {
        let header = Header {
            id,
            command: 8,
            size: 16 + body.len() as u32,
            flags: 0,
            error: 0,
        };
        [header.as_bytes(), body].concat()
    }

    fn send_with(vmm: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(
            vmm,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::empty(),
        );
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// Id, length of the body and number of descriptors.
    fn next(receiver: &mut Receiver<'_>) -> (u16, usize, usize) {
        match receiver.receive(None).unwrap() {
            Received::Message(message) => (
                message.header.id,
                message.body.len(),
                message.descriptors.len(),
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_come_one_by_one_however_they_are_cut() {
        let (mut vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        let long = vec![7; 3 * CHUNK];
        let all = [
            message(1, &[]),
            message(2, &[1, 2, 3]),
            message(3, &long),
            message(4, &[]),
        ]
        .concat();
        let writer = std::thread::spawn(move || {
            for piece in all.chunks(13) {
                vmm.write_all(piece).unwrap();
            }
        });
        for (id, length) in [(1, 0), (2, 3), (3, long.len()), (4, 0)] {
            assert_eq!(next(&mut receiver), (id, length, 0));
        }
        writer.join().unwrap();
        assert!(matches!(receiver.receive(None), Ok(Received::Closed)));
        assert!(receiver.input.capacity() <= 2 * CHUNK);
    }

    #[test]
    fn long_message_that_comes_byte_by_byte_is_made_room_for_once() {
        let (mut vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        let body: Vec<_> = (0..1 << 16).map(|at| at as u8).collect();
        let bytes = message(1, &body);
        let soon = || Some(Instant::now());
        let mut rooms = Vec::new();
        for byte in &bytes[..bytes.len() - 1] {
            vmm.write_all(&[*byte]).unwrap();
            assert!(matches!(receiver.receive(soon()), Ok(Received::Nothing)));
            rooms.push(receiver.input.as_ptr());
        }
        rooms.dedup();
        // Moving is for the header, of which nobody knows what follows.
        assert!(rooms.len() <= 4, "moved {} times", rooms.len());
        vmm.write_all(&bytes[bytes.len() - 1..]).unwrap();
        match receiver.receive(None).unwrap() {
            Received::Message(message) => assert_eq!(message.body, body),
            other => panic!("{other:?}"),
        }
        vmm.write_all(&message(2, &[])).unwrap();
        assert_eq!(next(&mut receiver), (2, 0, 0));
        assert!(receiver.input.capacity() <= 2 * CHUNK, "it is given back");
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_loses_nothing() {
        let (mut vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        assert!(matches!(receiver.receive(soon()), Ok(Received::Nothing)));
        let bytes = message(1, &[0; 8]);
        vmm.write_all(&bytes[..20]).unwrap();
        assert!(matches!(receiver.receive(soon()), Ok(Received::Nothing)));
        vmm.write_all(&bytes[20..]).unwrap();
        assert_eq!(next(&mut receiver), (1, 8, 0));
    }

    #[test]
    fn descriptors_stay_with_their_message() {
        let (mut vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        let file = File::open("/dev/null").unwrap();
        vmm.write_all(&message(1, &[])).unwrap();
        send_with(&vmm, &message(2, &[0; 4]), &[file.as_fd(), file.as_fd()]);
        vmm.write_all(&message(3, &[])).unwrap();
        send_with(&vmm, &message(4, &[]), &[file.as_fd()]);
        let found = [1, 2, 3, 4].map(|_| next(&mut receiver));
        assert_eq!(found, [(1, 0, 0), (2, 4, 2), (3, 0, 0), (4, 0, 1)]);
    }

    #[test]
    fn nonsense_breaks_it() {
        for size in [0, 15, MAX_MESSAGE as u32 + 1, u32::MAX] {
            let (mut vmm, ours) = UnixStream::pair().unwrap();
            let mut receiver = Receiver::new(ours.as_fd());
            let mut bytes = message(1, &[]);
            bytes[4..8].copy_from_slice(&size.to_ne_bytes());
            vmm.write_all(&bytes).unwrap();
            let broken = receiver.receive(None).unwrap_err();
            assert!(matches!(broken, Broken::Size(claimed) if claimed == size));
        }
        let (mut vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        vmm.write_all(&message(1, &[0; 8])[..20]).unwrap();
        drop(vmm);
        assert!(matches!(receiver.receive(None), Err(Broken::Cut)));
    }

    #[test]
    fn too_many_descriptors_break_it() {
        let file = File::open("/dev/null").unwrap();
        let many = [file.as_fd(); MAX_DESCRIPTORS + 1];
        let (vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        send_with(&vmm, &message(1, &[]), &many);
        assert!(matches!(receiver.receive(None), Err(Broken::Descriptors)));
        // A few with each byte of a message that never ends.
        let (vmm, ours) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(ours.as_fd());
        for byte in message(1, &[0; 4]).iter().take(5) {
            send_with(&vmm, &[*byte], &many[..8]);
        }
        assert!(matches!(receiver.receive(None), Err(Broken::Descriptors)));
    }

    #[test]
    fn answers_to_nobody_are_an_error_and_no_signal() {
        let (vmm, ours) = UnixStream::pair().unwrap();
        send_all(ours.as_fd(), b"answer").unwrap();
        drop(vmm);
        assert!(matches!(
            send_all(ours.as_fd(), b"answer"),
            Err(Broken::Kernel(_))
        ));
    }
}
