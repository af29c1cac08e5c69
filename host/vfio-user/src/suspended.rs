//! A session that was stopped between two messages, for another server to continue.

use std::os::fd::OwnedFd;

use crate::connection::{self, Unread};
use crate::no_session::NoSession;
use crate::wire::{MAX_DESCRIPTORS, MAX_MESSAGE};
use manatee_common::closer::Foreign;

/// A session with a VMM that was stopped between two messages. All that was received before
/// has been carried out and answered; [`Server::resume`](crate::Server::resume) continues it,
/// in this process or in another one that has the descriptors.
#[derive(Debug)]
pub struct Suspended {
    /// The connection.
    pub connection: OwnedFd,
    /// Whether the VMM has used the device.
    pub attached: bool,
    /// The bytes of further messages that were received.
    pub received: Vec<u8>,
    /// The descriptors that came with them, each with the offset in `received` after its byte.
    pub descriptors: Vec<(u64, OwnedFd)>,
}

impl Suspended {
    /// Refuses what a server could not have received.
    ///
    /// # Errors
    ///
    /// [`NoSession`].
    pub fn check(&self) -> Result<(), NoSession> {
        let length = self.received.len();
        if length > MAX_MESSAGE + connection::CHUNK {
            return Err(NoSession::TooLong(length));
        }
        let count = self.descriptors.len();
        if count > 2 * MAX_DESCRIPTORS {
            return Err(NoSession::TooMany(count));
        }
        let mut before = 1;
        for (place, _) in &self.descriptors {
            if !(before..=length as u64).contains(place) {
                return Err(NoSession::Place(*place));
            }
            before = *place;
        }
        Ok(())
    }

    pub(crate) fn new(connection: OwnedFd, attached: bool, unread: Unread) -> Self {
        let descriptors = unread.descriptors.into_iter();
        Self {
            connection,
            attached,
            received: unread.bytes,
            descriptors: descriptors.map(|(at, fd)| (at, fd.keep())).collect(),
        }
    }

    pub(crate) fn split(self) -> (Foreign, bool, Unread) {
        let descriptors = self.descriptors.into_iter();
        let unread = Unread {
            bytes: self.received,
            descriptors: descriptors.map(|(at, fd)| (at, Foreign::new(fd))).collect(),
        };
        (Foreign::new(self.connection), self.attached, unread)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn suspended(length: usize, places: &[u64]) -> Suspended {
        let fd = || OwnedFd::from(UnixStream::pair().unwrap().0);
        Suspended {
            connection: fd(),
            attached: true,
            received: vec![0; length],
            descriptors: places.iter().map(|place| (*place, fd())).collect(),
        }
    }

    #[test]
    fn what_no_server_can_have_received_is_refused() {
        let check = |length, places: &[u64]| suspended(length, places).check();
        assert_eq!(check(0, &[]), Ok(()));
        assert_eq!(check(40, &[3, 3, 40]), Ok(()));
        assert_eq!(check(40, &[0]), Err(NoSession::Place(0)));
        assert_eq!(check(40, &[41]), Err(NoSession::Place(41)));
        assert_eq!(check(40, &[9, 8]), Err(NoSession::Place(8)));
        let many = [1; 2 * MAX_DESCRIPTORS + 1];
        assert_eq!(check(1, &many), Err(NoSession::TooMany(many.len())));
        let long = MAX_MESSAGE + connection::CHUNK + 1;
        assert_eq!(check(long, &[]), Err(NoSession::TooLong(long)));
    }
}
