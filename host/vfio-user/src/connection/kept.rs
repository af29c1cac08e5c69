//! Receiving with a journal: bytes are peeked at, and consumed once they are carried out.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use manatee_common::closer::{self, Foreign};

use super::{
    Broken, CLOSING_PATIENCE, MAX_PASSED, Message, Received, Receiver, Unread, readable_before,
};
use crate::journal::{Journal, Progress};
use crate::peek::{self, Arrivals};
use crate::wire::{MAX_KEPT_MESSAGE, MAX_UNCONSUMED};

/// The most bytes that one call of a VMM puts into a packet: the kernel makes several of
/// more. It has 48 KiB with pages of 4 KiB.
const MAX_PACKET: usize = 4 * MAX_KEPT_MESSAGE;

impl<'a> Receiver<'a> {
    /// Begins to peek, and to note in `journal` what is consumed.
    pub fn keep(&mut self, journal: &'a dyn Journal) -> Result<(), Broken> {
        peek::set_offset(self.socket, 0)?;
        self.journal = Some(journal);
        Ok(())
    }

    /// Returns whether what is consumed is noted in a journal.
    pub fn is_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// Stops peeking, and returns what is consumed but not looked at: nothing, unless
    /// descriptors came for a message that is not complete in the packet of one that is
    /// carried out. What is not consumed is received again, by whoever continues.
    pub fn stop(mut self) -> Result<Unread, Broken> {
        let Some(journal) = self.journal else {
            return Ok(self.into_unread());
        };
        if self.begin > 0 && !self.descriptors.is_empty() {
            self.leave_journal()?;
            return Ok(self.into_unread());
        }
        self.consume_all_done(journal)?;
        peek::set_offset(self.socket, peek::OFF)?;
        Ok(Unread::default())
    }

    /// Consumes all that was peeked at, and continues without a journal.
    pub fn leave_journal(&mut self) -> Result<(), Broken> {
        // They are the same bytes as are there already.
        consume(self.socket, &mut self.input[..self.end])?;
        peek::set_offset(self.socket, peek::OFF)?;
        self.journal = None;
        self.arrivals = None;
        Ok(())
    }

    /// Consumes what another server was consuming when it died: `done` of `peeked` bytes.
    pub fn finish_consuming(socket: BorrowedFd<'_>, done: u32, peeked: u32) -> Result<(), Broken> {
        let left = u32::try_from(peek::offset(socket)?);
        let consumed = left.ok().and_then(|left| peeked.checked_sub(left));
        let rest = consumed.and_then(|consumed| done.checked_sub(consumed));
        let rest = rest.ok_or(Broken::Unlike("it has other bytes than were peeked at"))?;
        consume(socket, &mut vec![0; rest as usize])
    }

    /// Peeks again at `done` bytes that are carried out, which are all there.
    pub fn skip(&mut self, done: usize) -> Result<(), Broken> {
        while self.end < done {
            let missing = done - self.end;
            if matches!(self.fill(missing, Some(Instant::now()))?, None | Some(0)) {
                return Err(Broken::Unlike("it has fewer bytes than were carried out"));
            }
            self.descriptors.retain(|(at, _)| *at > done as u64);
        }
        self.begin = done;
        self.consumed = done as u64;
        Ok(())
    }

    /// Peeks again at the message of `length` bytes that was in progress, which is there.
    pub fn again(&mut self, length: u32) -> Result<Message<'_>, Broken> {
        match self.receive(Some(Instant::now()))? {
            Received::Message(message) if message.header.size == length => Ok(message),
            _ => Err(Broken::Unlike("it has no such message as was carried out")),
        }
    }

    /// Consumes what is carried out, unless that would take descriptors along that came in the
    /// same packet for a message that is not complete.
    pub(super) fn consume_done(&mut self, journal: &dyn Journal) -> Result<(), Broken> {
        if self.begin == 0 {
            return Ok(());
        }
        if self.descriptors.is_empty() {
            return self.consume_all_done(journal);
        }
        match self.end + MAX_PACKET <= MAX_UNCONSUMED {
            true => Ok(()),
            false => Err(Broken::Packet),
        }
    }

    fn consume_all_done(&mut self, journal: &dyn Journal) -> Result<(), Broken> {
        if self.begin > 0 {
            let (done, peeked) = (self.begin as u32, self.end as u32);
            journal.set_progress(Progress::Consuming { done, peeked });
            // They are the same bytes as are there already.
            consume(self.socket, &mut self.input[..self.begin])?;
            self.compact();
            journal.set_progress(Progress::Idle { done: 0 });
        }
        Ok(())
    }

    /// Peeks again at what was just peeked at, with room for all of the last packet: the next
    /// peek would bring the descriptors once more that came with it, which are those behind
    /// the first `before`.
    pub(super) fn peek_at_packet(&mut self, before: usize) -> Result<Option<usize>, Broken> {
        self.descriptors.truncate(before);
        // What is there does not exceed `MAX_UNCONSUMED`, so it is no large number.
        peek::set_offset(self.socket, self.end as i32)?;
        let room = self.end + MAX_PACKET;
        self.make_room(room);
        let received = self.receive_into(self.end..room, None)?;
        match received {
            Some(bytes) if bytes < MAX_PACKET => Ok(received),
            _ => Err(Broken::Packet),
        }
    }

    /// Waits until more comes than was peeked at. False if nothing comes before the deadline,
    /// or it is asked to stop meanwhile. `in_vain` if the socket was readable and had nothing.
    pub(super) fn arrives_before(
        &mut self,
        deadline: Option<Instant>,
        in_vain: bool,
    ) -> Result<bool, Broken> {
        // Bytes out of band make a socket readable and are never peeked at.
        if self.end == 0 && !in_vain {
            return readable_before(self.socket, self.halt, deadline);
        }
        let arrivals = match self.arrivals.take() {
            Some(arrivals) => arrivals,
            None => Arrivals::of(self.socket)?,
        };
        let arrivals = self.arrivals.insert(arrivals);
        let arrived = readable_before(arrivals.as_fd(), self.halt, deadline)?;
        arrivals.forget()?;
        Ok(arrived)
    }
}

/// Consumes bytes that are there. Descriptors that came with them are others than those that
/// were peeked at, and the last ones perhaps.
fn consume(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(), Broken> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = retry_on_intr(|| {
            let mut room = [IoSliceMut::new(rest)];
            recvmsg(socket, &mut room, &mut ancillary, flags)
        });
        let missing = Broken::Unlike("it has fewer bytes than were peeked at");
        let received = match received {
            Err(Errno::AGAIN) => return Err(missing),
            received => received?,
        };
        if received.bytes == 0 {
            return Err(missing);
        }
        let mut any = false;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                any = true;
                descriptors.for_each(|fd| drop(Foreign::new(fd)));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Broken::NoRoom);
        }
        if any && !closer::wait_for_room(CLOSING_PATIENCE) {
            return Err(Broken::Closing);
        }
        rest = &mut rest[received.bytes..];
    }
    Ok(())
}
