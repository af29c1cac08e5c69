//! Closes descriptors of other processes on threads of its own, since closing may block.
//!
//! The process that creates a descriptor decides how long closing it takes: a TCP socket waits
//! for its peer (`SO_LINGER`), a file of a FUSE file system for the process that serves it. So
//! a descriptor that a VMM sent and that is not kept is closed on one of a few threads that do
//! nothing else, and never by a thread that owns a device or serves a VMM.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The number of closing threads; one descriptor can block each.
const MAX_THREADS: usize = 4;
/// The most descriptors that may wait before no more are accepted from VMMs.
pub const MAX_WAITING: usize = 256;

static CLOSER: Closer = Closer {
    state: Mutex::new(State {
        waiting: VecDeque::new(),
        threads: 0,
        idle: 0,
    }),
    came: Condvar::new(),
    went: Condvar::new(),
};

struct Closer {
    state: Mutex<State>,
    /// Notified of each descriptor that is queued.
    came: Condvar,
    /// Notified when there is room again.
    went: Condvar,
}

struct State {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    /// The number of threads that wait for a descriptor.
    idle: usize,
}

/// Closes a descriptor on another thread. Never blocks: the descriptor is queued, and a receiver
/// of descriptors calls [`wait_for_room`] before it receives more.
pub fn close_elsewhere(fd: impl Into<OwnedFd>) {
    CLOSER.add(fd.into());
}

/// Waits until more descriptors may be received. Returns false if that takes too long, because
/// other processes block all closing threads.
pub fn wait_for_room(patience: Duration) -> bool {
    let full = |state: &mut State| state.waiting.len() >= MAX_WAITING;
    let mut state = CLOSER.state.lock();
    !CLOSER
        .went
        .wait_while_for(&mut state, full, patience)
        .timed_out()
}

/// A descriptor from another process. It is closed on another thread, unless it is kept.
#[derive(Debug)]
pub struct Foreign(Option<OwnedFd>);

impl Foreign {
    /// Takes responsibility for a descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }

    /// Returns the descriptor. Closing it is up to the caller.
    pub fn keep(mut self) -> OwnedFd {
        self.0
            .take()
            .expect("it is there until it is kept or dropped")
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd = self.0.as_ref();
        fd.expect("it is there until it is kept or dropped").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            close_elsewhere(fd);
        }
    }
}

impl Closer {
    fn add(&'static self, fd: OwnedFd) {
        let mut state = self.state.lock();
        state.waiting.push_back(fd);
        let short_of_threads = state.idle < state.waiting.len();
        if short_of_threads && state.threads < MAX_THREADS {
            let thread = thread::Builder::new().name("closer".into());
            // Without a thread the descriptor waits, until one can be started or is free.
            if thread.spawn(|| self.run()).is_ok() {
                state.threads += 1;
            }
        }
        self.came.notify_one();
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            match state.waiting.pop_front() {
                Some(fd) => {
                    if state.waiting.len() == MAX_WAITING - 1 {
                        self.went.notify_all();
                    }
                    drop(state);
                    drop(fd);
                    state = self.state.lock();
                }
                None => {
                    state.idle += 1;
                    self.came.wait(&mut state);
                    state.idle -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use rustix::net::sockopt::set_socket_linger;
    use rustix::thread::UnshareFlags;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Returns a socket whose last descriptor takes a minute to close, and its peer, which ends
    /// that by reading.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        set_socket_linger(&socket, Some(PATIENCE)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let full = loop {
            if let Err(error) = socket.write(&[0; 1 << 16]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        socket.set_nonblocking(false).unwrap();
        (socket, peer)
    }

    /// Runs a test where the only network is a loopback interface of its own.
    fn in_namespace(test: impl FnOnce() + Send) {
        let isolated = || {
            // The deprecated function is the safe one; what makes its successor unsafe is
            // another flag.
            #[expect(deprecated)]
            let unshared = rustix::thread::unshare(UnshareFlags::NEWNET);
            if let Err(error) = unshared {
                let _ = writeln!(io::stderr(), "skipped: no network namespace: {error}");
                return;
            }
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            assert!(up.unwrap().success(), "`ip` comes with iproute2");
            test();
        };
        let outcome = thread::scope(|scope| scope.spawn(isolated).join());
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    /// Waits until the other end of a pipe has been closed.
    fn wait_for_end(mut pipe: io::PipeReader) {
        assert_eq!(pipe.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn slow_descriptors_hold_up_neither_their_sender_nor_each_other() {
        in_namespace(|| {
            let mut peers = Vec::new();
            for _ in 0..MAX_THREADS - 1 {
                let (socket, peer) = lingering();
                close_elsewhere(socket);
                peers.push(peer);
            }
            let (read, write) = io::pipe().unwrap();
            close_elsewhere(write);
            wait_for_end(read);
            // With all threads held up, descriptors wait until there are enough of them.
            let (socket, last) = lingering();
            close_elsewhere(socket);
            let pipes = std::iter::repeat_with(|| {
                let (read, write) = io::pipe().unwrap();
                close_elsewhere(write);
                read
            });
            let pipes: Vec<_> = pipes.take(MAX_WAITING + MAX_THREADS).collect();
            assert!(!wait_for_room(Duration::ZERO));
            drop(last);
            pipes.into_iter().for_each(wait_for_end);
            assert!(wait_for_room(PATIENCE));
            drop(peers);
        });
    }
}
