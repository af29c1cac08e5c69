//! Why a process can't be confined.

/// Why a process can't be confined.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// It has a second thread already, which would not be confined.
    #[error("the process has {0} threads before it is confined; this is a bug of manatee")]
    Threads(usize),
    /// Privileges can't be dropped.
    #[error("giving up privileges: {step}: {source}{}", hint(.source))]
    Privileges {
        /// The operation that failed.
        step: &'static str,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// The kernel has no landlock.
    #[error(
        "this kernel has no landlock ({0}): it needs Linux 5.13 or newer, built with \
         CONFIG_SECURITY_LANDLOCK, and `landlock` in the `lsm=` list of its command line; \
         --no-sandbox runs without confinement"
    )]
    Landlock(String),
    /// The kernel does not support seccomp filters.
    #[error(
        "this kernel takes no seccomp filter ({0}): it needs CONFIG_SECCOMP_FILTER; \
         --no-sandbox runs without confinement"
    )]
    Seccomp(String),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EINVAL) => {
            "; choose a user with --user, keep root's with --user root, or run without \
            confinement by --no-sandbox"
        }
        _ => "",
    }
}
