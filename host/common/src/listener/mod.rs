//! Listening Unix sockets: binds a path without harming what is there, and removes the file at
//! the end; or adopts a socket that another process bound.

mod adopt;
#[cfg(test)]
mod tests;

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

pub use adopt::AdoptError;

/// The listen backlog.
const BACKLOG: i32 = 16;
/// How long to wait for another process that binds a path in the same directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Why a path can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A process listens there: its socket is never taken away.
    #[error("something listens on {0} already; stop it, or choose another path")]
    InUse(PathBuf),
    /// It is a file, directory or link, which is left alone.
    #[error("{0} exists and is not a socket; remove it, or choose another path")]
    NotASocket(PathBuf),
    /// The directory is missing.
    #[error("{0} can't be made, as its directory does not exist; create {1} first")]
    NoDirectory(PathBuf, PathBuf),
    /// The path is longer than the 107 bytes that the kernel accepts.
    #[error("{0} is too long for a socket's path; choose one of at most 107 bytes")]
    TooLong(PathBuf),
    /// The file's mode or group can't be set.
    #[error(
        "giving {path} mode {mode:04o}{group} failed ({source}): choose a mode of at most 0777, and \
         a group that the user who runs this is in",
        mode = access.mode,
        group = access.group.map(|group| format!(" and group {group}")).unwrap_or_default()
    )]
    Access {
        /// The path that was to be listened on.
        path: PathBuf,
        /// The permissions that were asked for.
        access: Access,
        /// What went wrong.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("listening on {path}")]
    Kernel {
        /// The path that was to be listened on.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permissions of the socket's file. Whoever may write may connect.
    pub mode: u32,
    /// The file's group, by number; the process's own if there is none.
    pub group: Option<u32>,
}

impl Default for Access {
    /// Grants access to the user who runs the process only.
    fn default() -> Self {
        Self {
            mode: 0o600,
            group: None,
        }
    }
}

/// A listening socket. One that was [bound](Self::bind) here removes its file when it is
/// dropped; one that was [adopted](Self::adopt) is left as it is.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// None if another process bound it.
    file: Option<BoundFile>,
    /// See [`address`](Self::address).
    address: Option<PathBuf>,
    /// Whether the file is left in place.
    kept: AtomicBool,
}

/// The file of a socket that was bound here.
#[derive(Debug)]
struct BoundFile {
    /// Absolute, so that it stays right if the working directory changes.
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`. Replaces a socket that nobody listens on any more. At no moment can anyone
    /// connect who has no access, whatever the umask is.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used.
    pub fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        let kernel = |source| BindError::Kernel {
            path: path.to_owned(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(kernel)?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        if !directory.is_dir() {
            return Err(BindError::NoDirectory(
                path.to_owned(),
                directory.to_owned(),
            ));
        }
        let address = SocketAddrUnix::new(path).map_err(|_| BindError::TooLong(path.to_owned()))?;
        // Two processes that find the same stale socket must not both replace
        // it: the second would take the first one's.
        let _lock = lock(directory);
        clear_stale(path, &address)?;
        let socket = bind_private(&address).map_err(|errno| match errno {
            Errno::ADDRINUSE => BindError::InUse(path.to_owned()),
            errno => kernel(errno.into()),
        })?;
        let identity = identity(&path.symlink_metadata().map_err(kernel)?);
        let file = BoundFile {
            path: absolute,
            identity,
        };
        let given = file.give_access(access);
        // From here on the file is removed in every case.
        let bound = Self {
            socket,
            address: Some(file.path.clone()),
            file: Some(file),
            kept: AtomicBool::new(false),
        };
        given.map_err(|source| BindError::Access {
            path: path.to_owned(),
            access,
            source,
        })?;
        rustix::net::listen(&bound.socket, BACKLOG).map_err(|errno| kernel(errno.into()))?;
        Ok(bound)
    }

    /// Returns the file that was created here, as an absolute path, and is removed at the end. None
    /// if another process bound the socket.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| &*file.path)
    }

    /// Returns the path that the socket was bound to by any process. None if it has none.
    pub fn address(&self) -> Option<&Path> {
        self.address.as_deref()
    }

    /// Removes the file, so that nobody finds the socket any more. Does nothing if it is gone, if
    /// another file has replaced it, or if another process bound the socket.
    pub fn unlink(&self) {
        if let Some(file) = &self.file
            && !self.kept.load(Ordering::Relaxed)
        {
            file.remove();
        }
    }

    /// Leaves the file where it is, for another process that listens on the same socket.
    pub fn keep_file(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }
}

impl BoundFile {
    /// Sets the file's mode and group.
    fn give_access(&self, access: Access) -> io::Result<()> {
        if access.mode > 0o777 {
            return Err(Errno::INVAL.into());
        }
        // By descriptor, so that it is the file that was created, and no link that replaced it.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let made = file.metadata()?;
        if identity(&made) != self.identity {
            return Err(Errno::STALE.into());
        }
        if made.mode() & 0o7777 == access.mode && access.group.is_none() {
            return Ok(());
        }
        if let Some(group) = access.group {
            let group = Gid::from_raw_unchecked(group);
            rustix::fs::chownat(&file, "", None, Some(group), AtFlags::EMPTY_PATH)?;
        }
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(name, Permissions::from_mode(access.mode))
    }

    fn remove(&self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|file| identity(&file) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "can't remove the socket");
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Locks a directory against other processes that bind a path in it. None if that is impossible:
/// the lock is only needed when two start at the same moment.
fn lock(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK || Instant::now() > give_up {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(file)
}

fn stream_socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Binds a socket that only its owner can connect to.
fn bind_private(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = stream_socket(SocketFlags::empty())?;
    // Linux gives the file the permissions that the socket has when it is bound, without
    // those that the umask forbids, so there is no moment at which it is open to others.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, address)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on.
fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let kernel = |source| BindError::Kernel {
        path: path.to_owned(),
        source,
    };
    let file = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(kernel(error)),
        Ok(file) => file,
    };
    if !file.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    // Non-blocking, since connecting to a live listener whose backlog is full blocks.
    let probe = stream_socket(SocketFlags::NONBLOCK).map_err(|e| kernel(e.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing a socket that nobody listens on");
            std::fs::remove_file(path).map_err(kernel)
        }
        Err(Errno::NOENT) => Ok(()),
        Err(error @ (Errno::ACCESS | Errno::PERM)) => Err(kernel(error.into())),
        _ => Err(BindError::InUse(path.to_owned())),
    }
}
