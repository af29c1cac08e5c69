//! The thread of a device: it waits for packets, and for work that was left.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::Shared;

/// How long guest memory may be gone until the device is told: long enough for a
/// VMM that changes its memory map.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// The event that is no port's.
const KICK: u64 = u64::MAX;

/// What the thread waits on.
#[derive(Debug)]
pub struct Poller {
    epoll: Arc<OwnedFd>,
    kick: Arc<OwnedFd>,
    /// Held as long as they are registered.
    _ports: Vec<Option<OwnedFd>>,
}

impl Poller {
    /// Waits for each port's descriptor to become readable, edge-triggered.
    pub fn new(ports: io::Result<Vec<Option<OwnedFd>>>) -> io::Result<Self> {
        let ports = ports?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        for (index, fd) in ports.iter().enumerate() {
            if let Some(fd) = fd {
                let data = EventData::new_u64(index as u64);
                epoll::add(&epoll, fd, data, EventFlags::IN | EventFlags::ET)?;
            }
        }
        Ok(Self {
            epoll: Arc::new(epoll),
            kick: Arc::new(kick),
            _ports: ports,
        })
    }

    /// Has the thread go on with work that was left, or look whether the
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

/// Starts the thread; it ends with the device.
pub fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let (epoll, kick) = (shared.poller.epoll.clone(), shared.poller.kick.clone());
    thread::Builder::new()
        .name("device".into())
        .spawn(move || run(&weak, &epoll, &kick))?;
    Ok(())
}

fn run(shared: &Weak<Shared>, epoll: &OwnedFd, kick: &OwnedFd) {
    let mut events = Vec::with_capacity(64);
    let mut patience = None;
    loop {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(epoll, spare, patience.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::error!(%error, "waiting for packets failed; the device receives no more");
                return;
            }
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        for event in &events {
            match event.data.u64() {
                KICK => {
                    let _ = rustix::io::read(kick, &mut [0; 8]);
                }
                port => shared.wakes.add_port(port as usize),
            }
        }
        if events.is_empty() {
            // Guest memory did not come back in time.
            let mut body = shared.own();
            body.stop_waiting();
            body.settle();
            patience = None;
            continue;
        }
        shared.go_on();
        patience = shared.waits().then_some(PATIENCE);
    }
}
