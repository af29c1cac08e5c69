//! Whether the other side of a stream is there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// What a full socket may hold; less is taken where the kernel allows less.
const SEND_BUFFER: usize = 4 << 20;

/// Why the other side is gone, mostly.
pub(super) const CLOSED: &str = "it has closed the connection";

/// Why a descriptor is no stream of frames.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It is no Unix stream socket.
    #[error(
        "it is no Unix stream socket, such as `passt --fd` and QEMU's `-netdev stream` have at \
         their ends"
    )]
    NoUnixStream,
    /// Nobody is at its other end.
    #[error("it is not connected: hand over a socket that is, or one of a socketpair(2)")]
    NotConnected,
    /// It could not be set up.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether the other side of a [`Stream`](super::Stream) is there. Cheap to clone; every clone is
/// the same.
///
/// Its descriptor becomes readable when the other side is lost; [`note`](Self::note) looks then.
#[derive(Clone, Debug)]
pub struct StreamLink(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    name: String,
    up: AtomicBool,
    /// Whether there is a socket that the queue has not taken.
    fresh: AtomicBool,
    /// The one that was connected last.
    socket: Mutex<Option<Arc<OwnedFd>>>,
    /// Signalled when the queue is to look for another.
    news: OwnedFd,
    /// Signalled when the queue has lost the other side.
    lost: OwnedFd,
    /// What of both tells that the other side is lost: a queue that has nothing to do does not
    /// notice.
    watch: OwnedFd,
}

impl StreamLink {
    pub(super) fn new(name: String) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let lost = eventfd(0, flags)?;
        let watch = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&watch, &lost, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self(Arc::new(Seen {
            name,
            up: AtomicBool::new(false),
            fresh: AtomicBool::new(false),
            socket: Mutex::new(None),
            news: eventfd(0, flags)?,
            lost,
            watch,
        })))
    }

    /// Returns what the other side is called.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns whether the other side is there, as far as was noticed.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Continues with this socket, which is connected.
    ///
    /// # Errors
    ///
    /// See [`StreamError`]; the link is as before.
    pub fn connect(&self, socket: OwnedFd) -> Result<(), StreamError> {
        check(&socket)?;
        // As much as may be is better, and less is no reason to go without.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        let socket = Arc::new(socket);
        let mut current = self.0.socket.lock();
        self.watch_no_more(current.take());
        // That it hangs up is told without being asked for.
        let hangs_up = EventFlags::empty();
        epoll::add(&self.0.watch, &socket, EventData::new_u64(1), hangs_up)
            .map_err(io::Error::from)?;
        *current = Some(socket);
        drop(current);
        self.0.up.store(true, Ordering::Relaxed);
        self.0.fresh.store(true, Ordering::Release);
        signal(&self.0.news);
        Ok(())
    }

    /// Notes whether the other side is lost, for whoever waits for that.
    pub fn note(&self) {
        // It was read, or there was nothing to read.
        let _ = rustix::io::read(&self.0.lost, &mut [0; 8]);
        let mut current = self.0.socket.lock();
        let gone = current.as_ref().is_some_and(|socket| is_hung_up(socket));
        if gone {
            self.watch_no_more(current.take());
            drop(current);
            self.lose(CLOSED);
        }
    }

    fn watch_no_more(&self, socket: Option<Arc<OwnedFd>>) {
        if let Some(socket) = socket {
            // It fails if it was never watched.
            let _ = epoll::delete(&self.0.watch, &socket);
        }
    }

    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.0.news.as_fd()
    }

    /// Takes a socket that was connected since the last call.
    #[inline]
    pub(super) fn take(&self) -> Option<Arc<OwnedFd>> {
        if !self.0.fresh.load(Ordering::Acquire) {
            return None;
        }
        self.0.fresh.store(false, Ordering::Relaxed);
        self.0.socket.lock().clone()
    }

    /// Notes that the other side is gone.
    pub(super) fn lose(&self, why: &str) {
        if self.0.up.swap(false, Ordering::Relaxed) {
            let stream = self.name();
            tracing::warn!(stream, "the other side is gone ({why}): the link is down");
            signal(&self.0.lost);
        }
    }
}

impl AsFd for StreamLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.watch.as_fd()
    }
}

fn signal(eventfd: &OwnedFd) {
    // It fails when it is signalled already.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

fn check(socket: &OwnedFd) -> Result<(), StreamError> {
    let is_stream = sockopt::socket_type(socket) == Ok(SocketType::STREAM);
    let is_unix = sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX);
    if !is_stream || !is_unix {
        return Err(StreamError::NoUnixStream);
    }
    // One that listens says so, and one that was never connected is hung up on.
    match sockopt::socket_acceptconn(socket) == Ok(false) && !is_hung_up(socket) {
        true => Ok(()),
        false => Err(StreamError::NotConnected),
    }
}

/// Returns whether nobody is at the other end of a socket.
fn is_hung_up(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
