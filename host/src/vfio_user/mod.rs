//! Serves a device to a VMM over vfio-user.
//!
//! The protocol is spoken by the crate [`vfio_user`](::vfio_user); this module
//! carries requests out on a [`Device`], and keeps what a VMM sends from doing
//! harm: a session that fails or panics ends alone, and the next VMM is served.
//!
//! A VMM is whoever may connect to the socket, and the file's permissions decide
//! who that is. With version 0.1.7 of the crate, one that means harm can
//!
//! - make us allocate what a message claims to hold, up to 4 GiB. The memory is
//!   only used as far as the VMM really sends that much, but if the kernel
//!   refuses the allocation outright, the process ends;
//! - stay connected without a word, and so keep other VMMs from connecting;
//! - send a request that is refused with a body that is not read: what follows
//!   is taken for a header, and only this session suffers.
//!
//! The crate takes at most 16 descriptors with a message and ends the session at
//! more. QEMU sends one at a time, as it is told to, Cloud Hypervisor up to 16.

mod backend;
mod irq_request;
mod layout;
mod session;
mod throttle;
mod vectors;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::net::Shutdown;

pub use crate::socket::BindError;
pub use vectors::{NotAnEventFd, Vectors};

use crate::device::Device;
use crate::socket::BoundListener;
use backend::Backend;
use session::Outcome;
use throttle::Throttle;

/// How long to wait before accepting again when the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a connection is looked for that appeared while the server stops.
const STOP_RETRY: Duration = Duration::from_millis(20);

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
    socket: BoundListener,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    running: bool,
}

impl Server {
    /// Listens on `path`, with the permissions that the umask says. From now on
    /// a VMM can connect; it is served when [`serve`](Self::serve) runs.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let socket = BoundListener::bind(path, None)?;
        let (state, changed) = Default::default();
        let control = Control {
            socket,
            state,
            changed,
        };
        Ok(Self {
            control: Arc::new(control),
        })
    }

    /// Where the socket is, as an absolute path.
    pub fn path(&self) -> &Path {
        self.control.socket.path()
    }

    /// A handle that ends [`serve`](Self::serve).
    pub fn stopper(&self) -> Stopper {
        Stopper(self.control.clone())
    }

    /// Serves `device` to one VMM after the other, until it is told to stop.
    /// `vectors` are those that the device raises its interrupts on. Between two
    /// VMMs the device is reset and forgets the guest's memory.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if the socket breaks.
    pub fn serve(self, device: &Device, vectors: &Vectors) -> Result<(), ServeError> {
        let _running = Running::new(&self.control);
        let irqs = layout::irqs(vectors.count());
        let regions = layout::regions(device);
        let listener = self.control.socket.as_fd().try_clone_to_owned();
        let listener = listener.map_err(ServeError::Accept)?;
        let server = vfio_user::Server::from_owned_fd(listener, true, irqs, regions);
        let mut throttle = Throttle::new();
        while !self.control.state.lock().stopping {
            let mut backend = Backend::new(device, vectors, &mut throttle);
            let outcome = session::run(&server, &mut backend);
            let used = backend.was_used();
            device.detach();
            vectors.clear();
            match outcome {
                Outcome::NotAccepted(error) => self.control.pause(error)?,
                _ if self.control.state.lock().stopping => {}
                outcome => report(&outcome, used, &mut throttle),
            }
        }
        Ok(())
    }
}

fn report(outcome: &Outcome, used: bool, throttle: &mut Throttle) {
    let Some(dropped) = throttle.pass() else {
        return;
    };
    match outcome {
        Outcome::Closed if used => tracing::info!(dropped, "the VMM is gone; ready for the next"),
        // Somebody looked whether we are there.
        Outcome::Closed => tracing::debug!("a connection was closed without a request"),
        Outcome::Failed(error) => {
            tracing::warn!(
                dropped,
                "a session with a VMM failed: {error}; ready for the next"
            );
        }
        Outcome::Panicked(reason) => tracing::error!(
            dropped,
            "a session with a VMM ended by a panic: {reason}; ready for the next"
        ),
        Outcome::NotAccepted(_) => {}
    }
}

impl Control {
    /// After a failed accept: waits a little if it can work again.
    fn pause(&self, error: io::Error) -> Result<(), ServeError> {
        let mut state = self.state.lock();
        if state.stopping {
            return Ok(());
        }
        // A shut or closed socket stays so; all else is a lack that may pass,
        // of descriptors for example.
        if matches!(
            error.raw_os_error(),
            Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK)
        ) {
            return Err(ServeError::Accept(error));
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
        let _ = rustix::net::shutdown(&control.socket, Shutdown::Both);
        while state.running && Instant::now() < deadline {
            // Again and again, for a connection may just be being accepted.
            if let Err(error) = session::hang_up(control.socket.as_fd()) {
                tracing::debug!(%error, "can't end the session with the VMM");
            }
            control.changed.wait_for(&mut state, STOP_RETRY);
        }
        !state.running
    }
}
