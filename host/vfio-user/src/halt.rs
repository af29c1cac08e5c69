//! Asks the thread that serves a VMM to stop between two messages, where a successor can
//! continue.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// The request to stop, which wakes a thread that waits for a message.
#[derive(Debug)]
pub struct Halt {
    asked: AtomicBool,
    /// Readable while a stop is requested.
    wake: OwnedFd,
}

impl Halt {
    /// Creates one without a request.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            asked: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Requests the stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // The only failure is a full counter, which wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Withdraws the request.
    pub fn withdraw(&self) {
        self.asked.store(false, Ordering::Release);
        // Fails if it is empty already.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Returns whether a stop is requested.
    #[inline]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl AsFd for Halt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
