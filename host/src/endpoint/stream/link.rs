//! The connection state of a stream.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// The socket's buffer size; it is smaller where the kernel permits less.
const SEND_BUFFER: usize = 4 << 20;

/// The usual reason for a lost connection.
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
    /// It is not connected.
    #[error("it is not connected: hand over a socket that is, or one of a socketpair(2)")]
    NotConnected,
    /// It could not be set up.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The connection state of a [`Stream`](super::Stream). Cheap to clone; every clone is the same.
///
/// Its descriptor becomes readable when the connection is lost; call [`note`](Self::note) then.
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
    /// Signalled when the queue is to take another socket.
    news: OwnedFd,
    /// Signalled when the queue has lost the connection.
    lost: OwnedFd,
    /// Becomes ready when the connection is lost, by either sign: an idle queue does not notice.
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

    /// Returns the name of the other side.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns whether the other side is connected, as far as was noticed.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Continues with this socket, which must be connected.
    ///
    /// # Errors
    ///
    /// See [`StreamError`]; the link is as before.
    pub fn connect(&self, socket: OwnedFd) -> Result<(), StreamError> {
        check(&socket)?;
        // A larger buffer is better, and a smaller one does no harm.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        let socket = Arc::new(socket);
        let mut current = self.0.socket.lock();
        self.watch_no_more(current.take());
        // A hang-up is reported without being asked for.
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

    /// Checks whether the connection is lost.
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

    /// Records that the connection is lost.
    pub(super) fn lose(&self, why: &str) {
        if self.0.up.swap(false, Ordering::Relaxed) {
            let stream = self.name();
            tracing::warn!(
                stream,
                "the peer has disconnected ({why}): the link is down"
            );
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
    // A listening socket says so, and one that was never connected has a hang-up.
    match sockopt::socket_acceptconn(socket) == Ok(false) && !is_hung_up(socket) {
        true => Ok(()),
        false => Err(StreamError::NotConnected),
    }
}

/// Returns whether a socket has no peer.
fn is_hung_up(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
