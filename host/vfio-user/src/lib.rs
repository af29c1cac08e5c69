//! Serves a PCI function to a virtual machine monitor (VMM) over vfio-user, the
//! protocol of QEMU's `docs/interop/vfio-user.rst`, version 0.1.
//!
//! A function implements [`Backend`], and a [`Server`] serves it. `wire` defines the messages,
//! `connection` reads them from the socket, and `session` carries them out. A session that
//! fails ends alone, and the next VMM is served. A session can be stopped between two messages
//! and continued by another process ([`Stopper::hand_over`], [`Server::resume`]). With a
//! [`Journal`], it is also continued when the serving process dies at any instruction
//! ([`Server::recover`]); `journal` has the protocol.
//!
//! Whoever may connect to the socket is a VMM: the file's permissions decide. A message has up
//! to 1 MiB and 16 descriptors; one that claims more ends its session. One VMM is served at a
//! time: as long as it stays connected, others wait. Nothing that a VMM sends causes a panic
//! here; should the device's own code panic, the thread ends, and with it the process, rather
//! than continue with a half-updated device.

mod answers;
mod attachment;
mod backend;
mod connection;
mod eventfd;
mod halt;
mod irq_request;
mod journal;
mod layout;
mod no_session;
mod peek;
mod rations;
mod server;
mod session;
mod suspended;
mod vectors;
mod wire;

pub use backend::{Backend, CONFIG_SPACE_SIZE, MAX_DMA_MAPS, MemoryMap, Refused};
pub use journal::{Journal, Lost, Progress};
pub use manatee_common::listener::{Access, AdoptError, BindError};
pub use no_session::NoSession;
pub use server::{HandedOver, ServeError, Server, Stopper};
pub use suspended::Suspended;
pub use vectors::{AssignError, VectorState, Vectors};
