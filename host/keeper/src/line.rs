//! The line between the keeper and a process that it supervises: a socket pair that carries one
//! JSON packet at a time, with named descriptors.
//!
//! ```text
//!  keeper                        the one that serves        its successor
//!    Offer ──────────────────────────>
//!    <────────────── Offered + copies of all it has
//!    starts the successor with these ──────────────────────────> reads, compiles, rehearses
//!    <────────────────────────────────────────────────────────── Ready
//!    SIGTERM ────────────────────────>
//!    <── what it leaves (NOTIFY_SOCKET)
//!    <────────────── Left
//!    TakeOver + what was left ─────────────────────────────────> continues
//! ```
//!
//! A second line goes to the process's broker, which compiles components: it leaves machine code
//! there for later processes (`Code`). The process that serves can't: its machine code would be
//! that of whoever broke into it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::names::{MAX_NAME, is_name};
use crate::store::MOST;

/// The environment variable that tells a process to wait until its predecessor has ended.
pub const STANDBY: &str = "MANATEE_STANDBY";
/// The maximum number of descriptors in a packet.
const BATCH: usize = 64;
/// The longest packet in bytes: all names, and the message.
const MAX_PACKET: usize = BATCH * (MAX_NAME + 3) + (8 << 10);
/// The longest reason in characters.
const MAX_REASON: usize = 2048;
/// How long a message may wait for the other end to read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message on the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// To the process that serves: offer copies of all that a successor needs to rehearse.
    Offer,
    /// The answer to `Offer`, with these copies.
    Offered,
    /// The answer to `Offer` if no successor can be started in parallel with this process.
    Alone {
        /// Why.
        reason: String,
    },
    /// To the keeper: the successor can take over.
    Ready,
    /// To the keeper: the successor can't take over.
    Refused {
        /// Why.
        reason: String,
    },
    /// To the keeper: everything was handed over, and the process is about to end.
    Left,
    /// To the successor: take over with these descriptors.
    TakeOver,
    /// From a broker to the keeper: keep this machine code.
    Code,
}

/// A descriptor with its name.
pub type Named = (String, OwnedFd);

/// The result of listening.
#[derive(Debug)]
pub enum Heard {
    /// No message yet.
    Nothing,
    /// A message with its descriptors.
    Said(Word, Vec<Named>),
    /// The other end is gone.
    Closed,
}

#[derive(Serialize, Deserialize)]
struct Packet {
    /// None if more descriptors follow.
    word: Option<Word>,
    names: Vec<String>,
}

/// One end of the line.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
    /// Descriptors whose message has not arrived yet.
    received: Vec<Named>,
}

impl Line {
    /// Creates a line: the keeper's end, and the end that the process inherits.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(ours), theirs))
    }

    /// Wraps an end that was inherited.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            received: Vec::new(),
        }
    }

    /// Duplicates this end, for sending.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn copy(&self) -> io::Result<Self> {
        Ok(Self::new(self.socket.try_clone()?))
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// If the other end is closed, or has not read for some seconds.
    pub fn say(&self, word: Word, descriptors: &[(&str, BorrowedFd<'_>)]) -> io::Result<()> {
        let mut batches: VecDeque<_> = descriptors.chunks(BATCH).collect();
        let last = batches.pop_back().unwrap_or_default();
        for batch in batches {
            self.send(None, batch)?;
        }
        self.send(Some(cut(word)), last)
    }

    fn send(&self, word: Option<Word>, batch: &[(&str, BorrowedFd<'_>)]) -> io::Result<()> {
        let names = batch.iter().map(|(name, _)| (*name).to_owned()).collect();
        let packet = serde_json::to_vec(&Packet { word, names })?;
        let descriptors: Vec<_> = batch.iter().map(|(_, descriptor)| *descriptor).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let parts = [IoSlice::new(&packet)];
        loop {
            match sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait_for(&self.socket, PollFlags::OUT, PATIENCE)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                sent => return Ok(sent.map(|_| ())?),
            }
        }
    }

    /// Receives a message, without waiting.
    ///
    /// # Errors
    ///
    /// If a system call fails, or the packet is invalid.
    pub fn listen(&mut self) -> io::Result<Heard> {
        loop {
            let mut bytes = vec![0; MAX_PACKET];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Heard::Nothing),
                Err(Errno::CONNRESET) => return Ok(Heard::Closed),
                received => received?,
            };
            if received.bytes == 0 {
                return Ok(Heard::Closed);
            }
            let rights = control.drain().flat_map(|part| match part {
                RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
                _ => Vec::new(),
            });
            let rights: Vec<_> = rights.collect();
            let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
            let packet: Packet = serde_json::from_slice(&bytes[..received.bytes])?;
            let count = self.received.len() + rights.len();
            let named = packet.names.len() == rights.len();
            let named = named && packet.names.iter().all(|name| is_name(name));
            if received.flags.intersects(cut) || !named || count > MOST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.received.extend(packet.names.into_iter().zip(rights));
            if let Some(word) = packet.word {
                return Ok(Heard::Said(word, std::mem::take(&mut self.received)));
            }
        }
    }

    /// Waits for a message.
    ///
    /// # Errors
    ///
    /// The same as for [`listen`](Self::listen).
    pub fn wait(&mut self) -> io::Result<Heard> {
        loop {
            match self.listen()? {
                Heard::Nothing => {
                    wait_for(&self.socket, PollFlags::IN, Duration::from_secs(3600))?;
                }
                heard => return Ok(heard),
            }
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Truncates the reason in a message, and removes its control characters.
fn cut(mut word: Word) -> Word {
    if let Word::Alone { reason } | Word::Refused { reason } = &mut word {
        let clean = reason.chars().filter(|c| !c.is_control());
        *reason = clean.take(MAX_REASON).collect();
    }
    word
}

/// Waits until a descriptor is ready for `what`; returns false if it is not in time.
pub fn wait_for(fd: impl AsFd, what: PollFlags, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(&fd, what)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> (Line, Line) {
        let (ours, theirs) = Line::pair().unwrap();
        (ours, Line::new(theirs))
    }

    fn said(line: &mut Line) -> (Word, Vec<String>) {
        match line.listen().unwrap() {
            Heard::Said(word, named) => (word, named.into_iter().map(|(name, _)| name).collect()),
            heard => panic!("{heard:?}"),
        }
    }

    #[test]
    fn words_come_with_all_their_descriptors() {
        let (ours, mut theirs) = lines();
        assert!(matches!(theirs.listen().unwrap(), Heard::Nothing));
        let file = tempfile::tempfile().unwrap();
        for count in [0, 1, BATCH, BATCH + 1, 3 * BATCH] {
            let names: Vec<_> = (0..count).map(|number| format!("n{number}")).collect();
            let named: Vec<_> = names.iter().map(|n| (&**n, file.as_fd())).collect();
            ours.say(Word::Offered, &named).unwrap();
            assert_eq!(said(&mut theirs), (Word::Offered, names));
        }
        drop(ours);
        // A process that another test starts may hold a copy for a moment.
        assert!(matches!(theirs.wait().unwrap(), Heard::Closed));
    }

    #[test]
    fn reasons_are_clean_and_bounded() {
        let (ours, mut theirs) = lines();
        let reason = "\x1b[31m\n".to_owned() + &"é".repeat(2 * MAX_REASON);
        ours.say(Word::Refused { reason }, &[]).unwrap();
        let (Word::Refused { reason }, _) = said(&mut theirs) else {
            panic!("another word");
        };
        assert!(reason.starts_with("[31mé"));
        assert_eq!(reason.chars().count(), MAX_REASON);
    }

    #[test]
    fn what_is_never_said_is_an_error() {
        let send = |text: &[u8]| {
            let (ours, mut theirs) = lines();
            rustix::net::send(&ours, text, SendFlags::empty()).unwrap();
            theirs.listen().map(|_| ())
        };
        assert!(send(br#"{"word":"ready","names":[]}"#).is_ok());
        assert!(send(br#"{"word":"ready","names":["a"]}"#).is_err());
        assert!(send(br#"{"word":"steady","names":[]}"#).is_err());
        let (ours, mut theirs) = lines();
        let file = tempfile::tempfile().unwrap();
        ours.say(Word::Offered, &[("a:b", file.as_fd())]).unwrap();
        assert!(theirs.listen().is_err(), "it would be two names in a list");
        assert!(send(b"x").is_err());
    }
}
