//! The broker: a small process, started before the jail is entered, that does for the
//! process that serves what that can't do any more. It removes the sockets' files at
//! the end, however that comes, starts the children that compile and check
//! candidates, and connects again to the sockets that ports were connected to; nothing else. It has a jail and a list of its own, and ends with the
//! process that it works for.
//!
//! Requests and answers are JSON, one each a packet of a socket pair, with at most one
//! descriptor.

mod client;
mod process;
mod request;
mod wire;

pub use client::Broker;
pub use process::run;
pub use request::{Begin, COMMAND, SocketFile};
