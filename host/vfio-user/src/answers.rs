//! How an answer leaves: over the socket at once, or, with a journal, over a pipe that
//! outlives the process.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, splice};

use crate::connection::{Broken, Message, send_all};
use crate::journal::{Journal, Progress};
use crate::peek;
use crate::wire::MAX_KEPT_MESSAGE;

/// The message in progress: `done` bytes are before it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    done: u32,
    length: u32,
}

impl Place {
    pub fn of(message: &Message<'_>) -> Self {
        Self {
            done: message.done,
            length: message.header.size,
        }
    }

    pub fn executing(self) -> Progress {
        let Self { done, length } = self;
        Progress::Executing { done, length }
    }

    pub fn posted(self) -> Progress {
        let Self { done, length } = self;
        Progress::Posted { done, length }
    }

    fn executed(self) -> Progress {
        let Self { done, length } = self;
        Progress::Executed { done, length }
    }

    fn answering(self) -> Progress {
        let Self { done, length } = self;
        Progress::Answering { done, length }
    }

    /// Counts the message among those that are done.
    pub fn finished(self) -> Progress {
        let done = self.done + self.length;
        Progress::Idle { done }
    }
}

/// Checks that a session over a connection can be noted in a journal, and makes its pipe ready.
///
/// # Errors
///
/// The kernel's, or that the pipe is too small.
pub(crate) fn prepare(journal: &dyn Journal, connection: BorrowedFd<'_>) -> io::Result<()> {
    peek::set_offset(connection, peek::OFF)?;
    let (out, _) = journal.pipe();
    let size = fcntl_getpipe_size(out)?;
    if size < MAX_KEPT_MESSAGE {
        let what = format!(
            "its pipe has room for {size} bytes, and an answer has up to {MAX_KEPT_MESSAGE}: \
             raise `sysctl fs.pipe-user-pages-soft`"
        );
        return Err(io::Error::other(what));
    }
    // What another session left.
    Ok(empty(out)?)
}

/// Sends an answer. With a journal, progress is `Answering` afterwards.
///
/// # Errors
///
/// [`Broken`] if the VMM has gone.
pub(crate) fn send(
    journal: Option<&dyn Journal>,
    socket: BorrowedFd<'_>,
    place: Place,
    answer: &[u8],
) -> Result<(), Broken> {
    let Some(journal) = journal else {
        return send_all(socket, answer);
    };
    journal.set_answer(answer);
    journal.set_progress(place.executed());
    send_noted(journal, socket, place, answer)
}

/// Sends an answer that was noted, of which the pipe has nothing.
pub(crate) fn send_noted(
    journal: &dyn Journal,
    socket: BorrowedFd<'_>,
    place: Place,
    answer: &[u8],
) -> Result<(), Broken> {
    let (out, into) = journal.pipe();
    // It has room for all of it, so that this never waits.
    let written = retry_on_intr(|| rustix::io::write(into, answer))?;
    if written != answer.len() {
        return Err(Broken::Unlike("the pipe has no room for an answer"));
    }
    journal.set_progress(place.answering());
    leave(out, socket, written)
}

/// Sends the answer that another server put into the pipe, as far as it is still there.
pub(crate) fn send_rest(journal: &dyn Journal, socket: BorrowedFd<'_>) -> Result<(), Broken> {
    let (out, _) = journal.pipe();
    leave(out, socket, in_pipe(out)?)
}

/// Moves bytes that are in the pipe to the socket. What has been moved is in the pipe no more,
/// whenever the process dies.
fn leave(pipe: BorrowedFd<'_>, socket: BorrowedFd<'_>, bytes: usize) -> Result<(), Broken> {
    let mut left = bytes;
    while left > 0 {
        // It waits for room in the socket all the same.
        let flags = SpliceFlags::NONBLOCK;
        match retry_on_intr(|| splice(pipe, None, socket, None, left, flags)) {
            Ok(0) | Err(Errno::AGAIN) => {
                return Err(Broken::Unlike("the pipe has less than an answer"));
            }
            moved => left -= moved?,
        }
    }
    Ok(())
}

/// Reads all that is in a pipe, and forgets it.
pub(crate) fn empty(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    let left = in_pipe(pipe)?;
    if left > 0 {
        // Nobody writes into it meanwhile, and as much as there is never waits.
        retry_on_intr(|| rustix::io::read(pipe, &mut vec![0; left]).map(drop))?;
    }
    Ok(())
}

fn in_pipe(pipe: BorrowedFd<'_>) -> Result<usize, Errno> {
    let bytes = ioctl_fionread(pipe)?;
    usize::try_from(bytes).map_err(|_| Errno::OVERFLOW)
}
