//! What every part of the host needs.
//!
//! - [`ration`]: how many log lines others may cause, and what text of theirs is in them;
//! - [`closer`]: closes descriptors that others made, where it may take as long as it likes;
//! - [`listener`]: listening sockets that take no path from somebody else.

pub mod closer;
pub mod listener;
pub mod ration;
