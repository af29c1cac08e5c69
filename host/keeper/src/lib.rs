//! Supervises one `manatee serve`: keeps the descriptors that it hands over, and starts the
//! process that replaces it.
//!
//! It implements systemd's descriptor store for one process: descriptors that the process
//! sends to `NOTIFY_SOCKET` (`FDSTORE=1`) are passed to the next one in `LISTEN_FDS`. It neither
//! reads nor writes any of them, and contains neither wasmtime nor tokio. For an upgrade it
//! starts the successor while the process still serves, and talks to both over a [`line`](mod@line).

mod codes;
pub mod line;
pub mod names;
mod process;
pub mod protocol;
mod requests;
mod store;
mod supervise;
mod upgrade;

pub use process::{FACTS, launch};
pub use requests::ask;
pub use supervise::{Options, keep};
