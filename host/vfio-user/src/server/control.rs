//! What the thread that serves and those that stop it share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SocketFlags, accept_with};

use manatee_common::closer::{self, Foreign};
use manatee_common::listener::Listener;

use super::error::ServeError;
use crate::connection::Unread;
use crate::halt::Halt;
use crate::suspended::Suspended;

/// How long to wait before accepting again when the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Control {
    pub socket: Listener,
    /// Asked once the server is to stop.
    pub halt: Halt,
    pub state: Mutex<State>,
    pub changed: Condvar,
}

/// What becomes of a session that was stopped.
pub(super) enum Halted {
    /// It is kept for a successor.
    Kept,
    /// The server stops, and so does the session.
    Stopped(Arc<Foreign>),
    /// The request was withdrawn.
    Withdrawn(Arc<Foreign>, Unread),
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub stopping: bool,
    /// Another server is to continue.
    pub handing_over: bool,
    /// The session that it continues with.
    pub suspended: Option<Suspended>,
    pub running: bool,
    /// The VMM that is being served.
    pub connection: Option<Arc<Foreign>>,
}

impl Control {
    /// Waits for a VMM. None if there is to be no other.
    pub fn accept(&self) -> Result<Option<Foreign>, ServeError> {
        while !self.state.lock().is_ending() {
            if !closer::wait_for_room(ACCEPT_PAUSE) {
                continue;
            }
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&self.halt, PollFlags::IN),
            ];
            let accepted = retry_on_intr(|| poll(&mut fds, None))
                .and_then(|_| retry_on_intr(|| accept_with(&self.socket, SocketFlags::CLOEXEC)));
            match accepted {
                Ok(socket) => return Ok(Some(Foreign::new(socket))),
                // It is to stop, or somebody else was quicker.
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => self.pause(errno)?,
            }
        }
        Ok(None)
    }

    /// Remembers a connection, to be ended when the server stops. None if it
    /// does so already, or if a successor is to serve it.
    pub fn take(
        &self,
        socket: Foreign,
        attached: bool,
        unread: Unread,
    ) -> Option<(Arc<Foreign>, Unread)> {
        let mut state = self.state.lock();
        if state.stopping {
            return None;
        }
        if state.handing_over {
            state.suspended = Some(Suspended::new(socket.keep(), attached, unread));
            return None;
        }
        let socket = Arc::new(socket);
        state.connection = Some(socket.clone());
        Some((socket, unread))
    }

    /// Remembers the connection of a server that died. None if the server stops already. If a
    /// successor is to serve it, that begins behind the request that was in progress.
    pub fn take_lost(&self, socket: Foreign) -> Option<Arc<Foreign>> {
        let mut state = self.state.lock();
        if state.stopping {
            return None;
        }
        let socket = Arc::new(socket);
        state.connection = Some(socket.clone());
        Some(socket)
    }

    /// Keeps a session that was stopped for a successor, if there is one.
    pub fn suspend(&self, socket: Arc<Foreign>, attached: bool, unread: Unread) -> Halted {
        let mut state = self.state.lock();
        if state.stopping {
            return Halted::Stopped(socket);
        }
        if !state.handing_over {
            return Halted::Withdrawn(socket, unread);
        }
        state.connection = None;
        match Arc::try_unwrap(socket) {
            Ok(socket) => {
                state.suspended = Some(Suspended::new(socket.keep(), attached, unread));
                Halted::Kept
            }
            // Nobody else keeps it.
            Err(socket) => Halted::Stopped(socket),
        }
    }

    /// Forgets the connection. True if it was ended because the server stops.
    pub fn hung_up(&self) -> bool {
        let mut state = self.state.lock();
        state.connection = None;
        state.stopping
    }

    /// Waits a little after a failed accept, if it can work again.
    fn pause(&self, errno: Errno) -> Result<(), ServeError> {
        let mut state = self.state.lock();
        if state.is_ending() {
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
pub(super) struct Running<'a>(&'a Control);

impl<'a> Running<'a> {
    pub fn new(control: &'a Control) -> Self {
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

impl State {
    /// Returns whether no VMM is to be served any more.
    fn is_ending(&self) -> bool {
        self.stopping || self.handing_over
    }
}
