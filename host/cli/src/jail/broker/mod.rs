//! The broker: a small process, started before the jail is entered, that does for the
//! serving process what that can't do in its jail. It removes the sockets' files at the
//! end, however the process ends, starts the children that compile and check candidates, and
//! reconnects to the sockets that ports were connected to; nothing else. It has a jail and a
//! list of system calls of its own, and ends with the process that it serves.
//!
//! Requests and answers are JSON, each in one packet of a socket pair, with at most one
//! descriptor.

mod client;
mod process;
mod request;
mod wire;

pub use client::Broker;
pub use process::run;
pub use request::{Begin, COMMAND, SocketFile};
