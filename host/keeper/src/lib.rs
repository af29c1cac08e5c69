//! Keeps what `manatee serve` hands over while it is replaced by another process, and starts
//! that.
//!
//! It is a service manager for one process, by systemd's protocol: descriptors that the process
//! sends to `NOTIFY_SOCKET` (`FDSTORE=1`) come back to the next one by `LISTEN_FDS`. It neither
//! reads nor writes any of them, and it runs neither wasm nor a runtime of tasks. For an upgrade it
//! starts the successor while the process still serves, and talks with both by a [`line`](mod@line).

pub mod line;
mod process;
pub mod protocol;
mod requests;
mod store;
mod supervise;
mod upgrade;

pub use process::{FACTS, launch};
pub use requests::ask;
pub use supervise::{Options, keep};
