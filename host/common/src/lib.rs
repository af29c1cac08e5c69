//! Parts that all crates of the host share.
//!
//! - [`ration`]: limits and cleans the log lines that other parties may cause;
//! - [`closer`]: closes descriptors of other processes without blocking;
//! - [`listener`]: listening sockets that never take another process's path.

pub mod closer;
pub mod listener;
pub mod ration;
