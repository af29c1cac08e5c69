//! What is noted of a session where it outlives the process, so that another process can
//! continue the session when this one has died at any instruction.
//!
//! Somebody else keeps the descriptors and a shared memory file. Here is the protocol: which
//! step is noted before which system call. Three things survive a process by themselves:
//!
//! - The connection holds what has not been consumed. So messages are peeked at
//!   (`MSG_PEEK`), carried out, and only then consumed. How far the connection was peeked at
//!   is kept by the kernel (`SO_PEEK_OFF`), and lowered by what is consumed: between the
//!   note that bytes are being consumed and the next note, it tells how many were.
//! - A pipe holds the answer that is being sent. `splice(2)` moves it to the connection, and
//!   what has been moved is gone from the pipe.
//! - The journal holds one word, the [`Progress`], and the answer to the request in progress.
//!
//! A request is noted as `Executing` and carried out. If an answer is due, it is noted, the
//! word becomes `Executed`, the answer is put into the pipe, the word becomes `Answering`, and
//! the answer leaves. A posted write, one to a BAR, is answered first: `Executed`, `Answering`
//! and then `Posted`. Whether a message is such a write is decided by the message alone, so
//! that a successor decides alike. At last the word is `Idle` with the request among the bytes
//! that are done; they are consumed before more is peeked at.
//!
//! | died at | what the successor does |
//! | --- | --- |
//! | `Idle` | peeks at all again, behind what is done |
//! | `Executing` | carries it out again and answers. If it took effect already: a write, or memory that was shared or taken back, is only answered |
//! | `Executed` | empties the pipe, puts the answer into it, continues as below |
//! | `Answering` | moves what is left in the pipe; then carries out a posted write, which was not yet |
//! | `Posted` | carries it out, unless it took effect |
//! | `Consuming` | consumes what is left of it: `SO_PEEK_OFF` tells how much |
//!
//! What an answer repeats is idempotent, or its effect is known (`took_effect`). An interrupt
//! that the VMM asks for may come twice, as interrupts may.
//!
//! A message that is not consumed takes room in the VMM's send buffer, and all of an answer has
//! to have room in the pipe. So accesses are shorter with a journal (64 KiB less what goes
//! before the data). A VMM that sends a long message in hundreds of pieces fills its send
//! buffer before the message is complete, and waits for itself.
//!
//! Moving an answer to a VMM that has gone raises `SIGPIPE`, unlike sending it (`splice` has
//! no flag against that): the process has to ignore that signal, as Rust's runtime lets every
//! program do.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use zerocopy::FromBytes;

use crate::no_session::NoSession;
use crate::vectors::Vectors;
use crate::wire::{Header, MAX_KEPT_MESSAGE, MAX_UNCONSUMED};

/// What is noted of a session where it outlives the process.
pub trait Journal: Send + Sync {
    /// Notes that a VMM connected: its connection is kept from now on. The progress is
    /// `Idle { done: 0 }` afterwards.
    ///
    /// # Errors
    ///
    /// If the connection can't be kept. The session is served without a journal then.
    fn opened(&self, connection: BorrowedFd<'_>) -> io::Result<()>;

    /// Notes that the VMM has sent a request.
    fn attached(&self);

    /// Notes that the session is over, or is served without a journal from now on. Nobody
    /// recovers it.
    fn closed(&self);

    /// Returns what was noted last.
    fn progress(&self) -> Progress;

    /// Notes the progress by one atomic store. `Executing` and `Posted` begin a new request.
    fn set_progress(&self, progress: Progress);

    /// Notes the answer to the request in progress, header and body: at most 64 KiB.
    fn set_answer(&self, answer: &[u8]);

    /// Returns the answer that was noted last.
    fn answer(&self) -> Vec<u8>;

    /// Returns the ends of a pipe that outlives the process: where it is read, and where it is
    /// written. It has room for 64 KiB (`F_SETPIPE_SZ`).
    fn pipe(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>);

    /// Notes the vectors as they are now. When it returns, their eventfds are kept.
    ///
    /// # Errors
    ///
    /// If they can't be kept. The session is served without a journal from then on.
    fn vectors(&self, vectors: &Vectors) -> io::Result<()>;
}

/// The progress of a session. `done` are the bytes at the head of the stream that are carried
/// out and not consumed, and `length` those of the message in progress behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Between two requests.
    Idle {
        /// Bytes that are carried out and not consumed.
        done: u32,
    },
    /// A request is being carried out that is answered afterwards, if at all.
    Executing {
        /// Bytes before it.
        done: u32,
        /// Its bytes.
        length: u32,
    },
    /// A posted write that was answered already, if it wants that, is being carried out.
    Posted {
        /// Bytes before it.
        done: u32,
        /// Its bytes.
        length: u32,
    },
    /// The answer is noted, and may be in the pipe in part. All but a posted write is carried
    /// out.
    Executed {
        /// Bytes before the request.
        done: u32,
        /// The request's bytes.
        length: u32,
    },
    /// All of the answer was put into the pipe, and leaves.
    Answering {
        /// Bytes before the request.
        done: u32,
        /// The request's bytes.
        length: u32,
    },
    /// `done` of `peeked` bytes are being consumed.
    Consuming {
        /// Bytes that are consumed.
        done: u32,
        /// Bytes that were peeked at before.
        peeked: u32,
    },
}

/// Bits of a count in a word; above the two counts is the kind.
const COUNT_BITS: u32 = 30;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

impl Progress {
    /// Returns it as a word. Counts have 30 bits, far more than a server ever peeks at.
    pub fn to_word(self) -> u64 {
        let (kind, low, high) = match self {
            Self::Idle { done } => (0, done, 0),
            Self::Executing { done, length } => (1, done, length),
            Self::Posted { done, length } => (2, done, length),
            Self::Executed { done, length } => (3, done, length),
            Self::Answering { done, length } => (4, done, length),
            Self::Consuming { done, peeked } => (5, done, peeked),
        };
        let count = |count: u32| u64::from(count) & COUNT;
        kind << (2 * COUNT_BITS) | count(high) << COUNT_BITS | count(low)
    }

    /// Returns what a word means. None if it means nothing.
    pub fn from_word(word: u64) -> Option<Self> {
        let done = (word & COUNT) as u32;
        let length = (word >> COUNT_BITS & COUNT) as u32;
        let progress = match word >> (2 * COUNT_BITS) {
            0 => Self::Idle { done },
            1 => Self::Executing { done, length },
            2 => Self::Posted { done, length },
            3 => Self::Executed { done, length },
            4 => Self::Answering { done, length },
            5 => Self::Consuming {
                done,
                peeked: length,
            },
            _ => return None,
        };
        (progress.to_word() == word).then_some(progress)
    }
}

/// A session whose server died.
#[derive(Debug)]
pub struct Lost {
    /// The connection.
    pub connection: OwnedFd,
    /// Whether the VMM has used the device.
    pub attached: bool,
    /// The progress that was noted last.
    pub progress: Progress,
    /// The answer that was noted last.
    pub answer: Vec<u8>,
    /// The request in progress had taken its effect on the device. It counts for requests that
    /// were being carried out only.
    pub took_effect: bool,
}

/// What a server that died has noted of a session, and was checked.
#[derive(Debug)]
pub(crate) struct Unfinished {
    /// The progress that was noted last.
    pub progress: Progress,
    /// The answer that was noted last.
    pub answer: Vec<u8>,
    /// See [`Lost`].
    pub took_effect: bool,
}

impl Lost {
    /// Checks what a server could not have noted.
    ///
    /// # Errors
    ///
    /// [`NoSession`].
    pub fn check(&self) -> Result<(), NoSession> {
        match self.progress {
            Progress::Idle { done } => match done as usize <= MAX_UNCONSUMED {
                true => Ok(()),
                false => Err(NoSession::Request { done, length: 0 }),
            },
            Progress::Executing { done, length }
            | Progress::Posted { done, length }
            | Progress::Answering { done, length } => check_place(done, length),
            Progress::Executed { done, length } => {
                check_place(done, length)?;
                check_answer(&self.answer)
            }
            Progress::Consuming { done, peeked } => {
                let good = done <= peeked && peeked as usize <= MAX_UNCONSUMED;
                good.then_some(())
                    .ok_or(NoSession::Consuming { done, peeked })
            }
        }
    }
}

fn check_place(done: u32, length: u32) -> Result<(), NoSession> {
    let message = size_of::<Header>()..=MAX_KEPT_MESSAGE;
    let end = u64::from(done) + u64::from(length);
    let good = message.contains(&(length as usize)) && end <= MAX_UNCONSUMED as u64;
    good.then_some(())
        .ok_or(NoSession::Request { done, length })
}

fn check_answer(answer: &[u8]) -> Result<(), NoSession> {
    let header = Header::read_from_prefix(answer);
    let good = header.is_ok_and(|(header, _)| header.size as usize == answer.len());
    (good && answer.len() <= MAX_KEPT_MESSAGE)
        .then_some(())
        .ok_or(NoSession::Answer(answer.len()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    const MAX_COUNT: u32 = COUNT as u32;

    fn progress() -> impl Strategy<Value = Progress> {
        (0..=5, 0..=MAX_COUNT, 0..=MAX_COUNT).prop_map(|(kind, done, length)| match kind {
            0 => Progress::Idle { done },
            1 => Progress::Executing { done, length },
            2 => Progress::Posted { done, length },
            3 => Progress::Executed { done, length },
            4 => Progress::Answering { done, length },
            _ => Progress::Consuming {
                done,
                peeked: length,
            },
        })
    }

    proptest! {
        #[test]
        fn words_mean_what_was_put_into_them(progress in progress()) {
            prop_assert_eq!(Progress::from_word(progress.to_word()), Some(progress));
        }

        #[test]
        fn every_word_means_itself_or_nothing(word in any::<u64>(), kind in 0_u64..8) {
            for word in [word, word >> 3 | kind << 60, word & COUNT | kind << 60] {
                if let Some(progress) = Progress::from_word(word) {
                    prop_assert_eq!(progress.to_word(), word);
                } else {
                    let idle = word >> 60 == 0 && word > COUNT;
                    prop_assert!(word >> 60 > 5 || idle);
                }
            }
        }
    }

    fn lost(progress: Progress, answer: &[u8]) -> Lost {
        Lost {
            connection: UnixStream::pair().unwrap().0.into(),
            attached: true,
            progress,
            answer: answer.to_vec(),
            took_effect: false,
        }
    }

    #[test]
    fn what_no_server_can_have_noted_is_refused() {
        let check = |progress| lost(progress, &[]).check();
        let most = MAX_UNCONSUMED as u32;
        let long = MAX_KEPT_MESSAGE as u32 + 1;
        assert_eq!(check(Progress::Idle { done: 40 }), Ok(()));
        assert_eq!(check(Progress::Idle { done: most }), Ok(()));
        assert!(check(Progress::Idle { done: most + 1 }).is_err());
        for (done, length) in [(0, 15), (0, long), (most, 40), (MAX_COUNT, 16)] {
            let refused = Err(NoSession::Request { done, length });
            assert_eq!(check(Progress::Executing { done, length }), refused);
            assert_eq!(check(Progress::Posted { done, length }), refused);
            assert_eq!(check(Progress::Executed { done, length }), refused);
            assert_eq!(check(Progress::Answering { done, length }), refused);
        }
        for (done, peeked) in [(41, 40), (0, most + 1)] {
            let refused = Err(NoSession::Consuming { done, peeked });
            assert_eq!(check(Progress::Consuming { done, peeked }), refused);
        }
    }

    #[test]
    fn answer_is_one_that_a_server_can_have_noted() {
        let header = Header {
            id: 1,
            command: 9,
            size: 20,
            flags: 1,
            error: 0,
        };
        let place = |answer: &[u8]| {
            let (done, length) = (0, 40);
            lost(Progress::Executed { done, length }, answer).check()
        };
        let good = [header.as_bytes(), &[0; 4]].concat();
        assert_eq!(place(&good), Ok(()));
        for bad in [
            &[][..],
            &good[..15],
            &good[..19],
            &[&good[..], &[0]].concat(),
        ] {
            assert_eq!(place(bad), Err(NoSession::Answer(bad.len())));
        }
        let size = MAX_KEPT_MESSAGE as u32 + 1;
        let mut long = Header { size, ..header }.as_bytes().to_vec();
        long.resize(size as usize, 0);
        assert_eq!(place(&long), Err(NoSession::Answer(long.len())));
    }
}
