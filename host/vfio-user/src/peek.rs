//! How far a connection was peeked at (`SO_PEEK_OFF`, `socket(7)`), which the kernel keeps
//! with the connection. The tests say what is relied on.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, retry_on_intr};

/// The offset of a socket that is peeked at from its head each time, as all are at first.
pub const OFF: i32 = -1;

/// Sets where the next peek begins, in bytes behind the head of what is received.
pub fn set_offset(socket: BorrowedFd<'_>, offset: i32) -> Result<(), Errno> {
    // SAFETY: `setsockopt` reads the four bytes of the offset, which lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            size_of::<i32>() as u32,
        )
    };
    result(set)
}

/// Returns where the next peek begins: how many bytes were peeked at and are not consumed.
pub fn offset(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut offset = OFF;
    let mut length = size_of::<i32>() as u32;
    // SAFETY: `getsockopt` writes at most the four bytes of the offset, and the length of
    // what it wrote. Both live through the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw mut offset).cast(),
            &raw mut length,
        )
    };
    result(got).map(|()| offset)
}

fn result(returned: libc::c_int) -> Result<(), Errno> {
    if returned == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

/// Becomes readable when more comes, or when the connection is closed. The socket itself is
/// readable as long as anything is not consumed, peeked at or not.
#[derive(Debug)]
pub struct Arrivals(OwnedFd);

impl Arrivals {
    /// Watches a socket. It is readable at first if anything was received before.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&watch, socket, epoll::EventData::new_u64(0), flags)?;
        Ok(Self(watch))
    }

    /// Forgets what came until now.
    pub fn forget(&self) -> Result<(), Errno> {
        let now = Timespec::default();
        let mut events = [MaybeUninit::<epoll::Event>::uninit()];
        retry_on_intr(|| epoll::wait(&self.0, &mut events, Some(&now)).map(drop))
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
