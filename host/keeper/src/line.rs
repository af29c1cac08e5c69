//! The line between the keeper and a process that it keeps: a pair of sockets, one packet of JSON
//! at a time, with named descriptors.
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

use crate::store::{MAX_NAME, MOST, is_name};

/// The name that a process's end of the line has among what it is started with.
pub const LINE: &str = "manatee-line";
/// The variable by which a process knows that it is to wait for its predecessor's end.
pub const STANDBY: &str = "MANATEE_STANDBY";
/// Descriptors of a packet.
const BATCH: usize = 64;
/// The longest packet in bytes: all names, and some words.
const MAX_PACKET: usize = BATCH * (MAX_NAME + 3) + (8 << 10);
/// The longest reason in characters.
const MAX_REASON: usize = 2048;
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// To the one that serves: offer copies of all that a successor needs to rehearse.
    Offer,
    /// Here they are.
    Offered,
    /// A successor can't be started beside this process.
    Alone {
        /// Why.
        reason: String,
    },
    /// To the keeper: the successor can take over.
    Ready,
    /// It can't.
    Refused {
        /// Why.
        reason: String,
    },
    /// To the keeper: all is left, and the process only ends.
    Left,
    /// To the successor: continue with this.
    TakeOver,
}

/// A descriptor with its name.
pub type Named = (String, OwnedFd);

/// What came of listening.
#[derive(Debug)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// Something, with descriptors.
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
    /// Descriptors whose word has not come yet.
    received: Vec<Named>,
}

impl Line {
    /// Makes a line: the keeper's end, and what becomes the process's.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(ours), theirs))
    }

    /// Takes an end that was handed over.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            received: Vec::new(),
        }
    }

    /// Returns the same end once more, to say something by.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn copy(&self) -> io::Result<Self> {
        Ok(Self::new(self.socket.try_clone()?))
    }

    /// Says something.
    ///
    /// # Errors
    ///
    /// If nobody listens any more, or has not for some seconds.
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

    /// Listens, without waiting.
    ///
    /// # Errors
    ///
    /// The kernel's, and if what came is nothing that is ever said.
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

    /// Listens until something is said.
    ///
    /// # Errors
    ///
    /// As there.
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

/// Bounds what is said.
fn cut(mut word: Word) -> Word {
    if let Word::Alone { reason } | Word::Refused { reason } = &mut word {
        let clean = reason.chars().filter(|c| !c.is_control());
        *reason = clean.take(MAX_REASON).collect();
    }
    word
}

/// Waits until something can be done with a descriptor; false if it can't in time.
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
        // A process that another test starts may have a copy for a moment.
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
