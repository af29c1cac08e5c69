//! What the thread of a device waits on: packets, and work that was left.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

/// The event that is no queue's.
pub(super) const KICK: u64 = u64::MAX;

/// What the thread waits on.
#[derive(Debug)]
pub struct Poller {
    pub(super) epoll: Arc<OwnedFd>,
    pub(super) kick: Arc<OwnedFd>,
    /// Held as long as they are registered.
    _queues: Vec<Option<OwnedFd>>,
}

impl Poller {
    /// Waits for each queue's descriptor to become readable, edge-triggered.
    pub fn new(queues: Vec<Option<OwnedFd>>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        for (index, fd) in queues.iter().enumerate() {
            if let Some(fd) = fd {
                let data = EventData::new_u64(index as u64);
                epoll::add(&epoll, fd, data, EventFlags::IN | EventFlags::ET)?;
            }
        }
        Ok(Self {
            epoll: Arc::new(epoll),
            kick: Arc::new(kick),
            _queues: queues,
        })
    }

    /// Has the thread continue with work that was left, or look whether the
    /// device has ended.
    pub fn kick(&self) {
        // The only failure is a full counter, which is a kick that waits.
        let _ = rustix::io::write(&*self.kick, &1u64.to_ne_bytes());
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.kick();
    }
}
