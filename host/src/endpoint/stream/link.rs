//! Whether the other side of a stream is there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// What a full socket may hold; less is taken where the kernel allows less.
const SEND_BUFFER: usize = 4 << 20;

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
/// Its descriptor becomes readable when the other side is lost.
#[derive(Clone, Debug)]
pub struct StreamLink(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    name: String,
    up: AtomicBool,
    /// Whether there is a socket that the queue has not taken.
    fresh: AtomicBool,
    socket: Mutex<Option<OwnedFd>>,
    /// Signalled when there is.
    news: OwnedFd,
    lost: OwnedFd,
}

impl StreamLink {
    pub(super) fn new(name: String) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(Seen {
            name,
            up: AtomicBool::new(false),
            fresh: AtomicBool::new(false),
            socket: Mutex::new(None),
            news: eventfd(0, flags)?,
            lost: eventfd(0, flags)?,
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
        let former = self.0.socket.lock().replace(socket);
        drop(former);
        self.0.up.store(true, Ordering::Relaxed);
        self.0.fresh.store(true, Ordering::Release);
        signal(&self.0.news);
        Ok(())
    }

    /// Forgets that the other side was lost: whoever waits for that has seen it.
    pub fn clear_lost(&self) {
        // It was read, or there was nothing to read.
        let _ = rustix::io::read(&self.0.lost, &mut [0; 8]);
    }

    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.0.news.as_fd()
    }

    /// Takes a socket that was connected since the last call.
    #[inline]
    pub(super) fn take(&self) -> Option<OwnedFd> {
        if !self.0.fresh.load(Ordering::Acquire) {
            return None;
        }
        self.0.fresh.store(false, Ordering::Relaxed);
        self.0.socket.lock().take()
    }

    /// Notes that the other side is gone.
    pub(super) fn lose(&self, why: &str) {
        tracing::warn!(
            stream = self.name(),
            "the other side is gone ({why}): the link is down"
        );
        self.0.up.store(false, Ordering::Relaxed);
        signal(&self.0.lost);
    }
}

impl AsFd for StreamLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.lost.as_fd()
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
    // One that listens, or was never connected.
    match rustix::net::getpeername(socket) {
        Ok(Some(_)) => Ok(()),
        Ok(None) | Err(_) => Err(StreamError::NotConnected),
    }
}
