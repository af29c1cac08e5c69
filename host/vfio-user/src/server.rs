//! The socket, and one VMM after the other that connects to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use manatee_common::closer::{self, Foreign};
use manatee_common::listener::{Access, AdoptError, BindError, Listener};
use manatee_common::ration::Ration;

use crate::attachment::Attachment;
use crate::backend::Backend;
use crate::connection::Broken;
use crate::rations::Rations;
use crate::session;
use crate::vectors::Vectors;

/// How long to wait before accepting again when the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why [`Server::serve`] gave up.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket can't be used any more.
    #[error("waiting for a VMM failed")]
    Accept(#[source] io::Error),
}

/// A vfio-user socket. Its file goes when this and every [`Stopper`] is dropped,
/// or when it is stopped.
#[derive(Debug)]
pub struct Server {
    control: Arc<Control>,
}

/// Ends a [`Server`] from another thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Control>);

#[derive(Debug)]
struct Control {
    socket: Listener,
    /// Readable once the server is to stop.
    stop: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    running: bool,
    /// The VMM that is being served.
    connection: Option<Arc<Foreign>>,
}

impl Server {
    /// Listens on `path`. From now on a VMM of the same user can connect; it is served
    /// when [`serve`](Self::serve) runs.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(path, Access::default())
    }

    /// Listens on `path`, for VMMs that are given access. Whoever can connect owns the
    /// device as long as it stays connected.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used, or access can't be given.
    pub fn bind_for(path: &Path, access: Access) -> Result<Self, BindError> {
        let kernel = |source: Errno| BindError::Kernel {
            path: path.to_owned(),
            source: source.into(),
        };
        Self::on(Listener::bind(path, access)?).map_err(kernel)
    }

    /// Serves at a listening socket that somebody else bound, such as a service manager. It
    /// stays theirs: its file is not removed, and others may listen on it afterwards.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is no listening Unix stream socket.
    pub fn adopt(socket: OwnedFd) -> Result<Self, AdoptError> {
        Self::on(Listener::adopt(socket)?).map_err(AdoptError::Kernel)
    }

    fn on(socket: Listener) -> rustix::io::Result<Self> {
        // Whoever else has the socket may be quicker in accepting.
        ioctl_fionbio(&socket, true)?;
        let control = Control {
            socket,
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            state: Mutex::default(),
            changed: Condvar::default(),
        };
        Ok(Self {
            control: Arc::new(control),
        })
    }

    /// Returns the socket's file, as an absolute path; None if somebody else bound the socket.
    pub fn path(&self) -> Option<&Path> {
        self.control.socket.path()
    }

    /// Returns the path that the socket was bound to, by whomever; None if it has none.
    pub fn address(&self) -> Option<&Path> {
        self.control.socket.address()
    }

    /// Returns a handle that ends [`serve`](Self::serve).
    pub fn stopper(&self) -> Stopper {
        Stopper(self.control.clone())
    }

    /// Serves `backend` to one VMM after the other, until it is told to stop.
    /// `vectors` are those that the function raises its interrupts on. Between two
    /// VMMs it is reset and forgets the guest's memory.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if the socket breaks.
    pub fn serve(self, backend: &dyn Backend, vectors: &Vectors) -> Result<(), ServeError> {
        let _running = Running::new(&self.control);
        let mut rations = Rations::default();
        while let Some(socket) = self.control.accept()? {
            let mut attachment = Attachment::new(backend, vectors, &mut rations);
            let outcome = session::run(socket.as_fd(), &mut attachment);
            let used = attachment.was_used();
            backend.detach();
            vectors.clear();
            // The VMM is told so at once. What it sent and nobody received is closed with
            // the socket, and that may take long.
            let _ = shutdown(&*socket, Shutdown::Both);
            if !self.control.hung_up() {
                report(outcome, used, &mut rations.sessions);
            }
        }
        Ok(())
    }
}

fn report(outcome: Result<(), Broken>, used: bool, ration: &mut Ration) {
    if matches!(outcome, Ok(()) if !used) {
        // Somebody looked whether we are there. That is no news, however often.
        return;
    }
    let Some(dropped) = ration.pass() else {
        return;
    };
    match outcome {
        Ok(()) => tracing::info!(dropped, "the VMM is gone; ready for the next"),
        Err(error) => tracing::warn!(
            dropped,
            "a session with a VMM failed: {error}; ready for the next"
        ),
    }
}

impl Control {
    /// Waits for a VMM. None if there is to be no other.
    fn accept(&self) -> Result<Option<Arc<Foreign>>, ServeError> {
        while !self.state.lock().stopping {
            if !closer::wait_for_room(ACCEPT_PAUSE) {
                continue;
            }
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            let accepted = retry_on_intr(|| poll(&mut fds, None))
                .and_then(|_| retry_on_intr(|| accept_with(&self.socket, SocketFlags::CLOEXEC)));
            match accepted {
                Ok(socket) => return Ok(self.take(Foreign::new(socket))),
                // It is to stop, or somebody else was quicker.
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => self.pause(errno)?,
            }
        }
        Ok(None)
    }

    /// Remembers a connection, to be ended when the server stops. None if it
    /// does so already.
    fn take(&self, socket: Foreign) -> Option<Arc<Foreign>> {
        let mut state = self.state.lock();
        if state.stopping {
            return None;
        }
        let socket = Arc::new(socket);
        state.connection = Some(socket.clone());
        Some(socket)
    }

    /// Forgets the connection. True if it was ended because the server stops.
    fn hung_up(&self) -> bool {
        let mut state = self.state.lock();
        state.connection = None;
        state.stopping
    }

    /// Waits a little after a failed accept, if it can work again.
    fn pause(&self, errno: Errno) -> Result<(), ServeError> {
        let mut state = self.state.lock();
        if state.stopping {
            return Ok(());
        }
        // A socket that somebody shut stays so; all else is a lack that may pass,
        // of descriptors for example.
        if matches!(errno, Errno::INVAL | Errno::BADF | Errno::NOTSOCK) {
            return Err(ServeError::Accept(errno.into()));
        }
        self.changed.wait_for(&mut state, ACCEPT_PAUSE);
        Ok(())
    }
}

/// Notes that `serve` runs, and that it has ended, however it does.
struct Running<'a>(&'a Control);

impl<'a> Running<'a> {
    fn new(control: &'a Control) -> Self {
        control.state.lock().running = true;
        Self(control)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running = false;
        self.0.changed.notify_all();
    }
}

impl Stopper {
    /// Removes the socket's file and ends [`Server::serve`], and the session with
    /// a VMM if there is one.
    /// Returns true when it has ended, false if it has not within `patience`;
    /// it still ends as soon as the VMM goes. If `serve` is only called later, it
    /// returns at once.
    pub fn stop(&self, patience: Duration) -> bool {
        let control = &*self.0;
        let deadline = Instant::now() + patience;
        let mut state = control.state.lock();
        state.stopping = true;
        control.changed.notify_all();
        control.socket.unlink();
        // The only failure is a full counter, which wakes it as well.
        let _ = rustix::io::write(&control.stop, &1_u64.to_ne_bytes());
        if let Some(connection) = &state.connection {
            // It may have ended by itself, which is as good.
            let _ = shutdown(&**connection, Shutdown::Both);
        }
        while state.running {
            if control.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        !state.running
    }
}
