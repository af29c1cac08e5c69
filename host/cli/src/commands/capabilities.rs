//! `--print-capabilities`: what management software asks of a backend (QEMU's
//! docs/interop/vfio-user.rst, and vhost-user.rst, which that goes by).

use serde_json::{Value, json};

/// The name by which the command is a backend: it serves, without a subcommand.
pub const BACKEND: &str = "vfio-user-mana";

/// Returns what the backend is and can. The file in contrib/vfio-user says the same of the program
/// that is installed.
pub fn capabilities() -> Value {
    json!({
        "type": "net",
        "features": ["control", "loopback", "null", "socket-activation", "tap"],
    })
}
