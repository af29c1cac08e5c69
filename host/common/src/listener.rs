//! Unix sockets that we listen on: taking a path without harming what is there,
//! and leaving nothing behind.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// How long to wait for another process that takes a path in the same directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Why a path can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A live socket: it is never taken away from its owner.
    #[error("something listens on {0} already; stop it, or choose another path")]
    InUse(PathBuf),
    /// A file, directory or link, which is left alone.
    #[error("{0} exists and is not a socket; remove it, or choose another path")]
    NotASocket(PathBuf),
    /// The directory is missing.
    #[error("{0} can't be made, as its directory does not exist; create {1} first")]
    NoDirectory(PathBuf, PathBuf),
    /// The kernel takes at most 107 bytes.
    #[error("{0} is too long for a socket's path; choose one of at most 107 bytes")]
    TooLong(PathBuf),
    /// The file can't be given to those who should connect.
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
    /// Anything else that the kernel says.
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
    /// The user who runs the process, and nobody else.
    fn default() -> Self {
        Self {
            mode: 0o600,
            group: None,
        }
    }
}

/// A listening socket that removes its file when it is dropped.
#[derive(Debug)]
pub struct BoundListener {
    listener: OwnedFd,
    /// Absolute, so that it stays right if the working directory changes.
    path: PathBuf,
    /// Device and inode of the file that we made.
    file: (u64, u64),
}

impl BoundListener {
    /// Listens on `path`. A socket that nobody listens on any more is replaced. Only those
    /// who are given access can connect, at any moment and whatever the umask is.
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
        let file = identity(&path.symlink_metadata().map_err(kernel)?);
        // From here on the file is removed whatever happens.
        let bound = Self {
            listener: socket,
            path: absolute,
            file,
        };
        bound
            .give_access(access)
            .map_err(|source| BindError::Access {
                path: path.to_owned(),
                access,
                source,
            })?;
        rustix::net::listen(&bound.listener, BACKLOG).map_err(|errno| kernel(errno.into()))?;
        Ok(bound)
    }

    /// Lets others than the user who runs this connect.
    fn give_access(&self, access: Access) -> io::Result<()> {
        if access.mode > 0o777 {
            return Err(Errno::INVAL.into());
        }
        // By descriptor, so that it is the file that was made, and no link in its place.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let made = file.metadata()?;
        if identity(&made) != self.file {
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

    /// Where it listens, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, so that nobody finds the socket any more. Does nothing
    /// if it is gone or if somebody put another file there.
    pub fn unlink(&self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|file| identity(&file) == self.file);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "can't remove the socket");
        }
    }
}

impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for BoundListener {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Locks a directory against others that take a socket path in it. None if that
/// isn't possible: the lock is only needed when two start at the same moment.
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
    // Not blocking, as a live listener whose backlog is full would keep us.
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use rustix::thread::UnshareFlags;

    use super::*;

    #[test]
    fn file_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = BoundListener::bind(&path, Access::default()).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    /// Runs in a thread whose umask is its own.
    fn with_umask(umask: u32, test: impl FnOnce() + Send) {
        let own = || {
            // The deprecated function is the safe one; what makes its successor unsafe is
            // another flag.
            #[expect(deprecated)]
            rustix::thread::unshare(UnshareFlags::FS).unwrap();
            rustix::process::umask(Mode::from_raw_mode(umask));
            test();
        };
        let outcome = std::thread::scope(|scope| scope.spawn(own).join());
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn access_is_what_was_asked_for_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let own = rustix::process::getegid().as_raw();
        for umask in [0, 0o022, 0o777] {
            for (mode, group) in [(0o600, None), (0o660, Some(own)), (0o666, None), (0, None)] {
                with_umask(umask, || {
                    let access = Access { mode, group };
                    let bound = BoundListener::bind(&path, access).unwrap();
                    let file = path.symlink_metadata().unwrap();
                    let found = (file.mode() & 0o7777, file.gid());
                    assert_eq!(found, (mode, group.unwrap_or(own)), "umask {umask:04o}");
                    drop(bound);
                });
            }
        }
    }

    #[test]
    fn access_that_cannot_be_given_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mode = 0o1666;
        let refused = BoundListener::bind(&path, Access { mode, group: None }).unwrap_err();
        assert!(refused.to_string().contains("1666"), "{refused}");
        assert!(!path.exists());
    }

    #[test]
    fn live_socket_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _bound = BoundListener::bind(&path, Access::default()).unwrap();
        let error = BoundListener::bind(&path, Access::default()).unwrap_err();
        assert!(matches!(error, BindError::InUse(_)));
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn full_backlog_is_no_reason_to_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _bound = BoundListener::bind(&path, Access::default()).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        let fill = || {
            let socket = stream_socket(SocketFlags::NONBLOCK).unwrap();
            rustix::net::connect(&socket, &address)
                .is_ok()
                .then_some(socket)
        };
        let _waiting: Vec<_> = std::iter::from_fn(fill).take(100).collect();
        assert!(matches!(
            BoundListener::bind(&path, Access::default()),
            Err(BindError::InUse(_))
        ));
    }

    #[test]
    fn stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _bound = BoundListener::bind(&path, Access::default()).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn other_files_are_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            BoundListener::bind(&path, Access::default()),
            Err(BindError::NotASocket(_))
        ));
        assert!(matches!(
            BoundListener::bind(dir.path(), Access::default()),
            Err(BindError::NotASocket(_))
        ));
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(
            BoundListener::bind(&link, Access::default()),
            Err(BindError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");

        let gone = dir.path().join("missing/s");
        assert!(matches!(
            BoundListener::bind(&gone, Access::default()),
            Err(BindError::NoDirectory(..))
        ));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(
            BoundListener::bind(&long, Access::default()),
            Err(BindError::TooLong(_))
        ));
    }

    #[test]
    fn file_that_took_our_place_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = BoundListener::bind(&path, Access::default()).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&path, "other").unwrap();
        drop(bound);
        assert_eq!(std::fs::read(&path).unwrap(), b"other");
    }
}
