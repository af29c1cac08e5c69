//! The socket, and the VMMs that connect to it, served one after the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{Shutdown, shutdown};

use manatee_common::closer::Foreign;
use manatee_common::listener::{Access, AdoptError, BindError, Listener};

use crate::attachment::Attachment;
use crate::backend::Backend;
use crate::connection::Unread;
use crate::halt::Halt;
use crate::journal::Journal;
use crate::rations::Rations;
use crate::session::{self, End, Start};
use crate::suspended::Suspended;
use crate::vectors::Vectors;
use control::{Control, Halted, Running};
pub use error::ServeError;

mod control;
mod error;
mod recover;

/// A vfio-user socket. Its file goes when this and every [`Stopper`] is dropped,
/// or when it is stopped.
pub struct Server {
    control: Arc<Control>,
    /// Where sessions are noted.
    journal: Option<Arc<dyn Journal>>,
}

/// Ends a [`Server`] from another thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Control>);

/// What [`Stopper::hand_over`] leaves for a successor.
#[derive(Debug)]
pub struct HandedOver {
    /// The listening socket, whose file is left where it is.
    pub listener: OwnedFd,
    /// The session with the VMM that was served, if there was one.
    pub session: Option<Suspended>,
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

    /// Listens on `path`, for VMMs that are granted `access`. Whoever can connect owns the device
    /// as long as it stays connected.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used, or access can't be granted.
    pub fn bind_for(path: &Path, access: Access) -> Result<Self, BindError> {
        let kernel = |source: Errno| BindError::Kernel {
            path: path.to_owned(),
            source: source.into(),
        };
        Self::on(Listener::bind(path, access)?).map_err(kernel)
    }

    /// Serves on a listening socket that another process bound, such as a service manager. Its
    /// file is not removed, and others may listen on it afterwards.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is no listening Unix stream socket.
    pub fn adopt(socket: OwnedFd) -> Result<Self, AdoptError> {
        Self::on(Listener::adopt(socket)?).map_err(AdoptError::Kernel)
    }

    /// Serves on a socket as [`adopt`](Self::adopt) does, and removes its file at the end: an
    /// earlier process bound it to this absolute path, where the file has this device and inode.
    ///
    /// # Errors
    ///
    /// The same as for [`adopt`](Self::adopt).
    pub fn inherit(socket: OwnedFd, path: &Path, inode: (u64, u64)) -> Result<Self, AdoptError> {
        Self::on(Listener::inherit(socket, path, inode)?).map_err(AdoptError::Kernel)
    }

    fn on(socket: Listener) -> rustix::io::Result<Self> {
        // Another owner of the socket may accept first.
        ioctl_fionbio(&socket, true)?;
        let control = Control {
            socket,
            halt: Halt::new()?,
            state: Mutex::default(),
            changed: Condvar::default(),
        };
        Ok(Self {
            control: Arc::new(control),
            journal: None,
        })
    }

    /// Returns the socket's file, as an absolute path; None if another process bound the socket.
    pub fn path(&self) -> Option<&Path> {
        self.control.socket.path()
    }

    /// Returns the path that the socket was bound to by any process; None if it has none.
    pub fn address(&self) -> Option<&Path> {
        self.control.socket.address()
    }

    /// Returns a handle that ends [`serve`](Self::serve).
    pub fn stopper(&self) -> Stopper {
        Stopper(self.control.clone())
    }

    /// Serves `backend` to one VMM after the other, until it is stopped. `vectors` are those on
    /// which the function raises its interrupts. Between two VMMs it is reset and forgets the
    /// guest's memory.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if the socket can't be used any more.
    pub fn serve(self, backend: &dyn Backend, vectors: &Vectors) -> Result<(), ServeError> {
        let _running = Running::new(&self.control);
        self.serve_others(backend, vectors, &mut Rations::default())
    }

    /// Continues a session that another server has [handed over](Stopper::hand_over), with a
    /// `backend` and `vectors` in the state that they had there, and then serves one VMM after the
    /// other as [`serve`](Self::serve) does.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if no server could have left such a session, or if the socket can't be used.
    pub fn resume(
        self,
        session: Suspended,
        backend: &dyn Backend,
        vectors: &Vectors,
    ) -> Result<(), ServeError> {
        session.check()?;
        let _running = Running::new(&self.control);
        let mut rations = Rations::default();
        let (socket, attached, unread) = session.split();
        let mut attachment = Attachment::new(backend, vectors, &mut rations);
        if attached {
            attachment.resume();
        }
        self.serve_one(socket, attachment, unread);
        self.serve_others(backend, vectors, &mut rations)
    }

    fn serve_others(
        &self,
        backend: &dyn Backend,
        vectors: &Vectors,
        rations: &mut Rations,
    ) -> Result<(), ServeError> {
        while let Some(socket) = self.control.accept()? {
            let attachment = Attachment::new(backend, vectors, rations);
            self.serve_one(socket, attachment, Unread::default());
        }
        Ok(())
    }

    /// Serves a VMM until it goes, or until its session is kept for a successor.
    fn serve_one<'a>(&'a self, socket: Foreign, mut attachment: Attachment<'a>, unread: Unread) {
        let used = attachment.was_used();
        let Some((socket, unread)) = self.control.take(socket, used, unread) else {
            return;
        };
        if let Some(journal) = self.journal.as_deref() {
            attachment.open_journal(journal, socket.as_fd(), &unread);
        }
        self.serve_until_end(socket, attachment, Start::Next(unread));
    }

    fn serve_until_end(
        &self,
        mut socket: Arc<Foreign>,
        mut attachment: Attachment<'_>,
        mut start: Start,
    ) {
        let outcome = loop {
            let halt = &self.control.halt;
            match session::run(socket.as_fd(), &mut attachment, halt, start) {
                Ok(End::Closed) => break Ok(()),
                Err(error) => break Err(error),
                Ok(End::Halted(rest)) => {
                    let used = attachment.was_used();
                    match self.control.suspend(socket, used, rest) {
                        Halted::Kept => return,
                        Halted::Stopped(again) => {
                            socket = again;
                            break Ok(());
                        }
                        Halted::Withdrawn(again, rest) => {
                            (socket, start) = (again, Start::Next(rest));
                        }
                    }
                }
            }
        };
        attachment.backend().detach();
        attachment.vectors().clear();
        if let Some(journal) = attachment.journal() {
            journal.closed();
        }
        // The VMM is told so at once. What it sent and nobody received is closed with
        // the socket, and that may take long.
        let _ = shutdown(&*socket, Shutdown::Both);
        if !self.control.hung_up() {
            attachment.report(outcome);
        }
    }
}

impl Stopper {
    /// Ends [`Server::serve`] where a successor can continue: the session is stopped between two
    /// messages without the VMM's notice, and other VMMs that connect wait. The socket's file
    /// stays, also when the server is dropped.
    ///
    /// Returns None if the server has not ended within `patience`, because a request takes that
    /// long or the VMM does not read its answers, or if it was stopped; then it continues to serve.
    pub fn hand_over(&self, patience: Duration) -> Option<HandedOver> {
        let control = &*self.0;
        let deadline = Instant::now() + patience;
        let mut state = control.state.lock();
        if state.stopping {
            return None;
        }
        let listener = control.socket.as_fd().try_clone_to_owned().ok()?;
        state.handing_over = true;
        control.changed.notify_all();
        control.halt.ask();
        while state.running && !state.stopping {
            let late = control.changed.wait_until(&mut state, deadline).timed_out();
            if late && state.running {
                state.handing_over = false;
                control.halt.withdraw();
                return None;
            }
        }
        if state.stopping {
            return None;
        }
        control.socket.keep_file();
        Some(HandedOver {
            listener,
            session: state.suspended.take(),
        })
    }

    /// Returns a copy of the listening socket, for a process that prepares to continue.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn listener(&self) -> io::Result<OwnedFd> {
        self.0.socket.as_fd().try_clone_to_owned()
    }

    /// Removes the socket's file and ends [`Server::serve`], and the session with a VMM if there
    /// is one. Returns false if that has not ended within `patience`; it still ends as soon as
    /// the VMM disconnects. If `serve` is only called later, it returns at once.
    pub fn stop(&self, patience: Duration) -> bool {
        let control = &*self.0;
        let deadline = Instant::now() + patience;
        let mut state = control.state.lock();
        state.stopping = true;
        control.changed.notify_all();
        control.socket.unlink();
        control.halt.ask();
        if let Some(connection) = &state.connection {
            // It may have ended by itself, which is fine.
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
