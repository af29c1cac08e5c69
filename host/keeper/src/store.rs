//! The descriptors that are kept, and the socket on which they arrive.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SocketAddrUnix, SocketFlags, SocketType, bind, recvmsg, socket_with, sockopt,
};

use crate::names::{is_name, is_reserved};

/// The most descriptors that are kept.
pub const MOST: usize = 2048;
/// The longest message in bytes.
const MAX_MESSAGE: usize = 4096;
/// The most descriptors that the kernel lets through with a message.
const MAX_PASSED: usize = 253;

/// Descriptors that are kept, in the order of arrival.
#[derive(Debug, Default)]
pub struct Store {
    kept: Vec<(String, OwnedFd)>,
    /// Whether the log says already that there is no room for more.
    said_full: bool,
}

impl Store {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns whether a descriptor has this name.
    pub fn has(&self, name: &str) -> bool {
        self.kept.iter().any(|(own, _)| own == name)
    }

    /// Returns the descriptors with their names.
    pub fn named(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let named = self.kept.iter();
        named.map(|(name, fd)| (&**name, fd.as_fd())).collect()
    }

    fn add(&mut self, name: &str, descriptors: Vec<OwnedFd>) {
        for descriptor in descriptors {
            if self.kept.len() >= MOST {
                // A process can cause this as often as it likes.
                if !std::mem::replace(&mut self.said_full, true) {
                    eprintln!(
                        "manatee-keeper: descriptors are not kept, as {MOST} are kept already"
                    );
                }
                return;
            }
            self.kept.push((name.to_owned(), descriptor));
        }
    }

    fn remove(&mut self, name: &str) {
        self.kept.retain(|(own, _)| own != name);
    }

    /// Carries a message out. Returns whether it says that the process is ready.
    fn heed(&mut self, message: Message) -> bool {
        let mut lines = message.text.lines();
        let value = |name: &str| {
            let mut lines = message.text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let name = value("FDNAME").unwrap_or("stored");
        if is_name(name) && !is_reserved(name) {
            if value("FDSTORE") == Some("1") {
                self.add(name, message.descriptors);
            } else if value("FDSTOREREMOVE") == Some("1") {
                self.remove(name);
            }
        }
        // A barrier's descriptor is closed here: everything sent before it has been handled.
        lines.any(|line| line == "READY=1")
    }
}

/// A notification of a process.
struct Message {
    text: String,
    descriptors: Vec<OwnedFd>,
}

/// The keeper's end of a process's `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

impl NotifySocket {
    /// Binds it in a directory that no other user can enter.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let path = folder.join("notify");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(&path)?)?;
        Ok(Self { socket, path })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Handles all pending notifications, and ignores those that `process` did not send. Returns
    /// whether one says that the process is ready.
    pub fn hear(&self, store: &mut Store, process: Option<u32>) -> io::Result<bool> {
        let mut ready = false;
        while let Some((message, sender)) = self.receive()? {
            if sender.is_some() && sender == process {
                ready |= store.heed(message);
            }
        }
        Ok(ready)
    }

    /// Receives a notification and the id of the process that sent it; None if there is none.
    fn receive(&self) -> io::Result<Option<(Message, Option<u32>)>> {
        let mut text = [0; MAX_MESSAGE];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut parts = [IoSliceMut::new(&mut text)];
        let received = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            received => received?,
        };
        let mut message = Message {
            text: String::new(),
            descriptors: Vec::new(),
        };
        let mut sender = None;
        for part in control.drain() {
            match part {
                RecvAncillaryMessage::ScmRights(descriptors) => {
                    message.descriptors.extend(descriptors);
                }
                RecvAncillaryMessage::ScmCredentials(who) => {
                    sender = u32::try_from(who.pid.as_raw_nonzero().get()).ok();
                }
                _ => {}
            }
        }
        // Ignore a message that was truncated.
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        if !received.flags.intersects(cut) {
            message.text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
        }
        Ok(Some((message, sender)))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{BROKER_LINE, CODE, LINE, MAX_NAME};

    fn names(store: &Store) -> String {
        let names: Vec<_> = store.named().iter().map(|(name, _)| *name).collect();
        names.join(":")
    }

    fn message(text: &str, descriptors: usize) -> Message {
        let open = |_| tempfile::tempfile().unwrap().into();
        Message {
            text: text.to_owned(),
            descriptors: (0..descriptors).map(open).collect(),
        }
    }

    #[test]
    fn descriptors_are_kept_and_forgotten_by_name() {
        let mut store = Store::default();
        assert!(!store.heed(message("FDSTORE=1\nFDNAME=a\nFDPOLL=0\n", 1)));
        store.heed(message("FDSTORE=1\nFDNAME=b", 2));
        store.heed(message("FDSTORE=1", 1));
        assert_eq!((store.len(), &*names(&store)), (4, "a:b:b:stored"));
        assert!(store.has("b"));
        store.heed(message("FDSTOREREMOVE=1\nFDNAME=b\n", 0));
        assert_eq!(names(&store), "a:stored");
        assert!(store.heed(message("READY=1\nSTATUS=x\n", 0)));
        assert!(!store.heed(message("STATUS=READY=1\n", 1)));
        assert_eq!(store.len(), 2, "a descriptor was stored without FDSTORE=1");
    }

    #[test]
    fn names_that_no_list_can_hold_are_not_taken() {
        let mut store = Store::default();
        for name in ["a:b", "a b", "é", &"x".repeat(MAX_NAME + 1)] {
            store.heed(message(&format!("FDSTORE=1\nFDNAME={name}\n"), 1));
        }
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn the_keepers_own_names_are_not_taken() {
        let mut store = Store::default();
        for name in [LINE, BROKER_LINE, &format!("{CODE}{}", "0".repeat(64))] {
            store.heed(message(&format!("FDSTORE=1\nFDNAME={name}\n"), 1));
        }
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn there_is_a_limit() {
        let mut store = Store::default();
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let copies = (0..MOST + 3).map(|_| file.try_clone().unwrap());
        store.add("x", copies.collect());
        assert_eq!(store.len(), MOST);
    }

    #[test]
    fn strangers_are_not_heard() {
        let folder = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(folder.path()).unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let mut store = Store::default();
        sender.send_to(b"READY=1", socket.path()).unwrap();
        assert!(!socket.hear(&mut store, Some(1)).unwrap());
        sender.send_to(b"READY=1", socket.path()).unwrap();
        assert!(socket.hear(&mut store, Some(std::process::id())).unwrap());
    }
}
