//! The socket by which an operator asks for an upgrade.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with, sockopt,
};

use crate::process::readable;
use crate::protocol::{Answer, MAX_PACKET, PATIENCE, Request};

/// Requests that wait.
const BACKLOG: i32 = 8;
/// How long a client may take to say what it wants.
const ASKED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The socket. Its file goes with it.
#[derive(Debug)]
pub struct Requests {
    socket: OwnedFd,
    path: PathBuf,
}

impl Requests {
    /// Listens on a path, for the user who runs this and nobody else.
    ///
    /// # Errors
    ///
    /// If something listens there, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let shown = path.display().to_string();
        let address = SocketAddrUnix::new(&path).context(shown.clone())?;
        match connect(socket()?, &address) {
            Ok(()) => bail!("something listens on {shown} already"),
            Err(Errno::CONNREFUSED) => std::fs::remove_file(&path)?,
            Err(_) => {}
        }
        let socket = socket()?;
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address).with_context(|| format!("listening on {shown}"))?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket, path })
    }

    /// Takes a client that is this user, or root, with what it asks for. None if there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn accept(&self) -> io::Result<Option<(Client, Request)>> {
        let flags = SocketFlags::CLOEXEC;
        let client = match accept_with(&self.socket, flags) {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            client => Client(client?),
        };
        match client.read() {
            Ok(request) => Ok(Some((client, request))),
            Err(error) => {
                client.answer(&Answer::Refused {
                    reason: format!("{error:#}"),
                });
                Ok(None)
            }
        }
    }
}

impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Who asks.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    fn read(&self) -> Result<Request> {
        let who = sockopt::socket_peercred(&self.0)?;
        let own = rustix::process::geteuid();
        ensure!(
            who.uid.is_root() || who.uid == own,
            "user {} may not ask for that, only user {} and root",
            who.uid,
            own
        );
        ensure!(readable(&self.0, ASKED_WITHIN)?, "nothing was asked for");
        let mut packet = vec![0; MAX_PACKET];
        let (length, _) = recv(&self.0, &mut *packet, RecvFlags::DONTWAIT)?;
        serde_json::from_slice(&packet[..length]).context("the request is invalid")
    }

    /// Answers. Nobody may wait for it any more.
    pub fn answer(&self, answer: &Answer) {
        let packet = serde_json::to_vec(answer).unwrap_or_default();
        let _ = send(&self.0, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// Asks a keeper for something.
///
/// # Errors
///
/// If there is no keeper at this path, or it does not answer.
pub fn ask(path: &Path, request: &Request) -> Result<Answer> {
    let socket = socket()?;
    let address = SocketAddrUnix::new(path)?;
    connect(&socket, &address)
        .with_context(|| format!("no keeper listens at {}", path.display()))?;
    send(&socket, &serde_json::to_vec(request)?, SendFlags::NOSIGNAL)?;
    let answered = readable(&socket, PATIENCE)?;
    ensure!(
        answered,
        "the keeper does not answer within {} s",
        PATIENCE.as_secs()
    );
    let mut packet = vec![0; MAX_PACKET];
    let (length, _) = recv(&socket, &mut *packet, RecvFlags::DONTWAIT)?;
    ensure!(length > 0, "the keeper is gone");
    Ok(serde_json::from_slice(&packet[..length])?)
}
