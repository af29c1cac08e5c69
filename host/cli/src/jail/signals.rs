//! Signals of a process without a runtime that waits for them.

#![allow(unsafe_code)]

/// Ignores the signals by which a terminal, an operator or a service manager ends the
/// processes of a group: the broker ends with the process that it serves.
pub fn ignore_endings() {
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
    ] {
        // SAFETY: no handler is installed, and these signals may be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
