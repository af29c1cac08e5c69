//! Attempts to escape from the jail, made from inside. Test builds only.

#![allow(unsafe_code)]

use std::io;

/// A way to escape, its purpose, and the mechanism that stops it.
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// What it would give access to.
    pub aim: &'static str,
    /// The mechanism that stops it.
    pub stopped: Stopped,
    attempt: fn() -> io::Result<()>,
}

/// The mechanism that stops an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Seccomp makes the call fail with this error.
    Refused(i32),
    /// Seccomp ends the process.
    Killed,
    /// Nothing: loading a component works this way, as documented.
    Documented,
}

const EPERM: Stopped = Stopped::Refused(libc::EPERM);

/// All attempts. Those that end the process are last.
pub const WAYS: &[Way] = &[
    way("open", "open a file", EPERM, || {
        call(
            libc::SYS_openat,
            [
                libc::AT_FDCWD as usize,
                c"/etc/passwd".as_ptr() as usize,
                0,
                0,
            ],
        )
    }),
    way("socket", "make a socket", EPERM, || {
        call(
            libc::SYS_socket,
            [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0, 0],
        )
    }),
    way("fork", "make another process", EPERM, || {
        call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0])
    }),
    way(
        "clone3",
        "make another process, by flags that no filter sees",
        Stopped::Refused(libc::ENOSYS),
        || call(libc::SYS_clone3, [0, 0, 0, 0]),
    ),
    way("capset", "get a capability back", EPERM, || {
        // A header of version 3 for this process, and all capabilities.
        let header = [0x2008_0522_u32, 0];
        let data = [u32::MAX; 6];
        call(
            libc::SYS_capset,
            [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0],
        )
    }),
    way("setuid", "become root", EPERM, || {
        call(libc::SYS_setresuid, [0, 0, 0, 0])
    }),
    way("dumpable", "be readable to others again", EPERM, || {
        call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0])
    }),
    way("limits", "raise a limit", EPERM, || {
        let unlimited = [u64::MAX; 2];
        let limit = unlimited.as_ptr() as usize;
        call(
            libc::SYS_prlimit64,
            [0, libc::RLIMIT_CORE as usize, limit, 0],
        )
    }),
    way(
        "write-and-execute",
        "map memory to be written and executed",
        EPERM,
        || {
            let both = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            map(both).map(drop)
        },
    ),
    way(
        "make-both",
        "make written memory executable while it is writable",
        EPERM,
        || {
            let both = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let page = map(libc::PROT_READ | libc::PROT_WRITE)?;
            call(libc::SYS_mprotect, [page, PAGE, both as usize, 0])
        },
    ),
    way("map-code", "execute a file that was written", EPERM, || {
        let file = call_for(libc::SYS_memfd_create, [c"x".as_ptr() as usize, 0, 0, 0])?;
        let rights = libc::PROT_READ | libc::PROT_EXEC;
        call6(
            libc::SYS_mmap,
            [0, PAGE, rights as usize, libc::MAP_SHARED as usize, file, 0],
        )
        .map(drop)
    }),
    way(
        "write-then-execute",
        "make memory executable that is no longer writable",
        Stopped::Documented,
        || {
            let page = map(libc::PROT_READ | libc::PROT_WRITE)?;
            let rights = libc::PROT_READ | libc::PROT_EXEC;
            call(libc::SYS_mprotect, [page, PAGE, rights as usize, 0])
        },
    ),
    way("io_uring", "make an io_uring", EPERM, || {
        call(libc::SYS_io_uring_setup, [1, 0, 0, 0])
    }),
    way("io_uring-register", "change an io_uring", EPERM, || {
        call(libc::SYS_io_uring_register, [0, 0, 0, 0])
    }),
    way("terminal", "type into a terminal", EPERM, || {
        let key = c"x".as_ptr() as usize;
        call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, key, 0])
    }),
    way("signal", "signal its parent", EPERM, || {
        let parent = std::os::unix::process::parent_id() as usize;
        call(libc::SYS_kill, [parent, libc::SIGTERM as usize, 0, 0])
    }),
    way("seccomp", "change its filters", EPERM, || {
        call(libc::SYS_seccomp, [0, 0, 0, 0])
    }),
    way("exec", "start a program", Stopped::Killed, || {
        call(libc::SYS_execve, [c"/bin/true".as_ptr() as usize, 0, 0, 0])
    }),
    way("ptrace", "attach to its parent", Stopped::Killed, || {
        let parent = std::os::unix::process::parent_id() as usize;
        call(
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH as usize, parent, 0, 0],
        )
    }),
    way(
        "memory",
        "read its parent's memory",
        Stopped::Killed,
        || {
            let parent = std::os::unix::process::parent_id() as usize;
            call(libc::SYS_process_vm_readv, [parent, 0, 0, 0])
        },
    ),
    way(
        "namespace",
        "make a user namespace",
        Stopped::Killed,
        || call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0]),
    ),
];

const PAGE: usize = 4096;

const fn way(
    name: &'static str,
    aim: &'static str,
    stopped: Stopped,
    attempt: fn() -> io::Result<()>,
) -> Way {
    Way {
        name,
        aim,
        stopped,
        attempt,
    }
}

/// Returns the attempt with this name.
pub fn find(name: &str) -> Option<&'static Way> {
    WAYS.iter().find(|way| way.name == name)
}

/// Makes the attempt with this name, and returns what stopped it.
///
/// # Errors
///
/// If there is none with this name.
#[cfg(feature = "escape")]
pub fn attempt(name: &str) -> Result<String, String> {
    let way = find(name).ok_or_else(|| format!("there is no way `{name}`"))?;
    Ok(way.attempt())
}

impl Way {
    /// Makes the attempt, and returns what stopped it.
    pub fn attempt(&self) -> String {
        match (self.attempt)() {
            Ok(()) if self.stopped == Stopped::Documented => "not stopped, as documented".into(),
            Ok(()) => "NOT STOPPED".into(),
            Err(error) => describe(error.raw_os_error().unwrap_or(0)),
        }
    }

    /// Returns what stops it, in the words of [`attempt`](Way::attempt).
    pub fn expected(&self) -> String {
        match self.stopped {
            Stopped::Refused(error) => describe(error),
            Stopped::Killed => "killed by seccomp".into(),
            Stopped::Documented => "not stopped, as documented".into(),
        }
    }
}

fn describe(error: i32) -> String {
    match error {
        libc::EPERM => "EPERM by seccomp".into(),
        libc::ENOSYS => "ENOSYS by seccomp".into(),
        libc::EACCES => "EACCES by landlock".into(),
        other => io::Error::from_raw_os_error(other).to_string(),
    }
}

fn map(rights: i32) -> io::Result<usize> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    call6(
        libc::SYS_mmap,
        [0, PAGE, rights as usize, flags, usize::MAX, 0],
    )
}

fn call(number: libc::c_long, [a, b, c, d]: [usize; 4]) -> io::Result<()> {
    call6(number, [a, b, c, d, 0, 0]).map(drop)
}

fn call_for(number: libc::c_long, [a, b, c, d]: [usize; 4]) -> io::Result<usize> {
    call6(number, [a, b, c, d, 0, 0])
}

fn call6(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> io::Result<usize> {
    // SAFETY: the pointers among the arguments are null or of live values; harm to this process
    // is what the call tests.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
