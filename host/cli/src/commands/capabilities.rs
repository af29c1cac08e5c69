//! `--print-capabilities`: what management software expects of a backend (QEMU's
//! docs/interop/vfio-user.rst, and vhost-user.rst, which that is based on).

use serde_json::{Value, json};

/// The program name under which the command serves without a subcommand.
pub const BACKEND: &str = "vfio-user-mana";

/// Returns the backend's description and capabilities. The file in contrib/vfio-user describes the
/// installed program in the same way.
pub fn capabilities() -> Value {
    json!({
        "type": "net",
        "features": ["control", "loopback", "null", "socket-activation", "tap"],
    })
}
