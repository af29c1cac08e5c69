//! Sockets that another process bound: a service manager, or the one that started this process.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, getsockname, sockopt};

use super::{BoundFile, Listener, identity};

/// Why a descriptor is no listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// It is another kind of file.
    #[error("it is no socket")]
    NoSocket,
    /// It is of another family or type.
    #[error("it is no stream socket of the Unix family (in a unit: ListenStream=PATH)")]
    OtherKind,
    /// It is a connection, or nobody has called listen(2).
    #[error("it does not listen: hand over a socket after listen(2), not a connection")]
    NotListening,
    /// A system call failed.
    #[error("it can't be used: {0}")]
    Kernel(Errno),
}

impl Listener {
    /// Listens on a socket that another process bound and that listens already. Its file is never
    /// removed here, and the socket never shut down: both remain with their owner.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is no listening Unix stream socket.
    pub fn adopt(socket: OwnedFd) -> Result<Self, AdoptError> {
        let family = sockopt::socket_domain(&socket).map_err(|errno| match errno {
            Errno::NOTSOCK => AdoptError::NoSocket,
            errno => AdoptError::Kernel(errno),
        })?;
        let kind = sockopt::socket_type(&socket).map_err(AdoptError::Kernel)?;
        if family != AddressFamily::UNIX || kind != SocketType::STREAM {
            return Err(AdoptError::OtherKind);
        }
        if !sockopt::socket_acceptconn(&socket).map_err(AdoptError::Kernel)? {
            return Err(AdoptError::NotListening);
        }
        fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(AdoptError::Kernel)?;
        let address = address_of(&socket);
        Ok(Self {
            socket,
            file: None,
            address,
            kept: AtomicBool::new(false),
        })
    }

    /// Listens on a socket as [`adopt`](Self::adopt) does, and removes its file at the end: a
    /// predecessor of this process bound it to this absolute path. If another file is at the
    /// path by then, that is left alone.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is no listening Unix stream socket.
    pub fn inherit(socket: OwnedFd, path: &Path, inode: (u64, u64)) -> Result<Self, AdoptError> {
        let adopted = Self::adopt(socket)?;
        let file = path.symlink_metadata().map(|file| identity(&file));
        let ours = file.is_ok_and(|found| found == inode);
        let file = ours.then(|| BoundFile {
            path: path.to_owned(),
            identity: inode,
        });
        let mut inherited = adopted;
        inherited.file = file;
        Ok(inherited)
    }
}

/// Returns the path that a socket was bound to, as it was given to `bind`.
fn address_of(socket: &OwnedFd) -> Option<PathBuf> {
    let address = SocketAddrUnix::try_from(getsockname(socket).ok()?).ok()?;
    let path = address.path_bytes().filter(|path| !path.is_empty())?;
    Some(OsStr::from_bytes(path).into())
}
