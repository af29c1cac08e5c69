//! Serves a PCI function to a virtual machine monitor (VMM) over vfio-user, the
//! protocol of QEMU's `docs/interop/vfio-user.rst`, version 0.1.
//!
//! Whoever has a function implements [`Backend`], and serves it by a [`Server`]. `wire`
//! has the messages, `connection` takes them off the socket, and `session` carries
//! them out. A session that fails ends alone, and the next VMM is served. A session can be stopped between two
//! messages and continued by another process ([`Stopper::hand_over`], [`Server::resume`]).
//!
//! A VMM is whoever may connect to the socket, and the file's permissions decide
//! who that is. A message has at most 1 MiB and 16 descriptors; one that claims
//! more ends its session. One VMM is served at a time: as long as it stays
//! connected, others wait. Nothing that a VMM sends panics here; should the device's own
//! code do so, the thread ends, and with it the process, rather than continue with a device
//! that is half done.

mod answers;
mod attachment;
mod backend;
mod connection;
mod eventfd;
mod halt;
mod irq_request;
mod journal;
mod layout;
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
pub use server::{HandedOver, ServeError, Server, Stopper};
pub use suspended::{NoSession, Suspended};
pub use vectors::{AssignError, VectorState, Vectors};
