//! The names of descriptors that pass between a keeper and its processes.

/// The name under which a process inherits its end of the line (`LISTEN_FDNAMES`).
pub const LINE: &str = "manatee-line";
/// The name of the line that a process passes on to its broker, and does not keep.
pub const BROKER_LINE: &str = "manatee-line-broker";
/// The prefix of the names of machine code; the rest is the SHA-256 of its component.
pub const CODE: &str = "manatee-code-";
/// The environment variable by which a keeper says that it alone hands descriptors over under
/// [reserved](is_reserved) names. Another service manager may hand over what a process stored
/// under them.
pub const KEEPER: &str = "MANATEE_KEEPER";
/// The longest name of a descriptor in bytes, as in systemd.
pub const MAX_NAME: usize = 255;

/// Returns the name of the machine code of the component with this SHA-256, in hexadecimal digits.
pub fn code_name(digest: impl std::fmt::Display) -> String {
    format!("{CODE}{digest}")
}

/// Returns whether only the keeper hands descriptors over under this name.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(LINE) || name.starts_with(CODE)
}

/// Returns whether a descriptor can have this name in `LISTEN_FDNAMES`.
pub fn is_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_graphic() && c != ':';
    name.len() <= MAX_NAME && name.chars().all(valid)
}
