//! The socket on which an operator requests an upgrade.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with, sockopt,
};

use crate::process::readable;
use crate::protocol::{Answer, MAX_PACKET, PATIENCE, Request};

/// The listen backlog.
const BACKLOG: i32 = 8;
/// The most clients that have not sent their request yet; the one that has been silent for longest
/// is dropped for another.
const MAX_SILENT: usize = 8;
/// How long a client may take to send its request.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Requests {
    socket: OwnedFd,
    path: PathBuf,
    /// Clients that have sent nothing yet, with their deadlines.
    silent: VecDeque<(Client, Instant)>,
}

impl Requests {
    /// Listens on a path, for the user who runs this process only.
    ///
    /// # Errors
    ///
    /// If another process listens there, or a system call fails.
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
        Ok(Self {
            socket,
            path,
            silent: VecDeque::new(),
        })
    }

    /// Returns the descriptors that are readable when [`accept`](Self::accept) may find something.
    pub fn news(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let silent = self.silent.iter().map(|(client, _)| client.0.as_fd());
        silent.chain([self.socket.as_fd()])
    }

    /// Returns the deadline of the first silent client.
    pub fn patience_ends(&self) -> Option<Instant> {
        self.silent.iter().map(|(_, until)| *until).min()
    }

    /// Accepts a client that is this user, or root, with its request. None if there is none. A
    /// client that sends nothing does not delay others.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn accept(&mut self) -> io::Result<Option<(Client, Request)>> {
        loop {
            let client = match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => break,
                client => Client(client?),
            };
            if self.silent.len() >= MAX_SILENT
                && let Some((oldest, _)) = self.silent.pop_front()
            {
                oldest.refuse("too many clients are connected: ask again");
            }
            self.silent
                .push_back((client, Instant::now() + ASKED_WITHIN));
        }
        for _ in 0..self.silent.len() {
            let Some((client, until)) = self.silent.pop_front() else {
                break;
            };
            match client.read() {
                Ok(Some(request)) => return Ok(Some((client, request))),
                Ok(None) if Instant::now() < until => self.silent.push_back((client, until)),
                Ok(None) => client.refuse("no request was sent in time"),
                Err(error) => client.refuse(&format!("{error:#}")),
            }
        }
        Ok(None)
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

/// A client that sent a request.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Returns its request; None if it has not sent it yet.
    fn read(&self) -> Result<Option<Request>> {
        let who = sockopt::socket_peercred(&self.0)?;
        let own = rustix::process::geteuid();
        ensure!(
            who.uid.is_root() || who.uid == own,
            "user {} may not ask for that, only user {} and root",
            who.uid,
            own
        );
        let mut packet = vec![0; MAX_PACKET];
        match recv(&self.0, &mut *packet, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            received => {
                let request = serde_json::from_slice(&packet[..received?.0]);
                request.map(Some).context("the request is invalid")
            }
        }
    }

    fn refuse(&self, reason: &str) {
        let reason = reason.to_owned();
        self.answer(&Answer::Refused { reason });
    }

    /// Sends the answer. The client may be gone already.
    pub fn answer(&self, answer: &Answer) {
        let packet = serde_json::to_vec(answer).unwrap_or_default();
        let _ = send(&self.0, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// Sends a request to a keeper, and returns its answer.
///
/// # Errors
///
/// If no keeper listens at this path, or it does not answer.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn client(path: &Path) -> OwnedFd {
        let client = socket().unwrap();
        connect(&client, &SocketAddrUnix::new(path).unwrap()).unwrap();
        client
    }

    #[test]
    fn silent_clients_keep_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper");
        let mut requests = Requests::bind(&path).unwrap();
        let mut silent = Vec::new();
        // More than the limit; the oldest are dropped.
        for number in 0..2 * MAX_SILENT {
            silent.push(client(&path));
            assert!(requests.accept().unwrap().is_none());
            assert_eq!(requests.silent.len(), (number + 1).min(MAX_SILENT));
        }
        assert!(requests.patience_ends().is_some());
        let asking = client(&path);
        let request = Request::Upgrade { program: None };
        let packet = serde_json::to_vec(&request).unwrap();
        send(&asking, &packet, SendFlags::empty()).unwrap();
        assert_eq!(requests.accept().unwrap().unwrap().1, request);
        let mut answer = vec![0; MAX_PACKET];
        let (length, _) = recv(&silent[0], &mut *answer, RecvFlags::DONTWAIT).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.contains("ask again"), "{answer}");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper");
        let mut requests = Requests::bind(&path).unwrap();
        let asking = client(&path);
        send(&asking, b"please", SendFlags::empty()).unwrap();
        assert!(requests.accept().unwrap().is_none());
        assert!(requests.silent.is_empty());
        let (length, _) = recv(&asking, &mut [0; 64][..], RecvFlags::DONTWAIT).unwrap();
        assert!(length > 0, "it was answered");
    }
}
