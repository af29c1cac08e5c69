//! A TAP interface: the guest is on the other end of it.
//!
//! Packets are moved by one write or read each, with a virtio-net header that
//! says which checksums and segments are left to do (linux/if_tun.h,
//! `IFF_VNET_HDR`). One system call makes up to 64 of them where the kernel
//! lets us use io_uring: most of what a short packet costs is the way into the
//! kernel and out. Short packets are copied, since a copy costs less than
//! telling the kernel of another range of memory.

mod attach;
mod inbox;
mod ioctl;
mod netlink;
mod queues;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;
mod watch;

pub use attach::TapError;
pub use watch::{InterfaceState, LinkWatch, TapLink};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::counters::Counters;
use super::head::Head;
use super::{Endpoint, PortIo, TxBatch, TxStatus};
use crate::memory::{Calls, Outcome};
use inbox::Inbox;
use transmit::Leaving;

/// A copy of a packet on its way out, or of its beginning: a packet of the
/// usual 1514 bytes fits. Larger ones are better copied once.
type Outgoing = Head<2048>;

/// A TAP interface as an [`Endpoint`].
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    link: TapLink,
    /// As it was when attached: the device is told once and holds to it.
    mtu: u16,
    created: bool,
    counters: Counters,
    // What follows is kept for its allocation, or its size.
    calls: Calls,
    inbox: Inbox,
    /// As many as one call of [`send`](Self::send) ever needed at once.
    outgoing: Vec<Outgoing>,
    leaving: Vec<Leaving>,
    outcomes: Vec<Outcome>,
}

impl Tap {
    /// Attaches to the TAP interface of this name. If there is none, makes
    /// one, down and without addresses, that goes away when this is dropped.
    ///
    /// # Errors
    ///
    /// See [`TapError`], whose message says what can be done.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let calls = Calls::batched().unwrap_or_else(|error| {
            tracing::info!(
                interface = name,
                "a packet takes a system call, since io_uring is not to be had: {error}"
            );
            Calls::one_by_one()
        });
        Self::open_with(name, calls)
    }

    fn open_with(name: &str, calls: Calls) -> Result<Self, TapError> {
        let attach::Attached {
            fd,
            index,
            mtu,
            created,
        } = attach::attach(name)?;
        if created {
            tracing::info!(
                interface = name,
                "made a TAP; bring it up with `ip link set {name} up`"
            );
        }
        Ok(Self {
            fd,
            link: TapLink::new(name, index, mtu),
            mtu,
            created,
            counters: Counters::default(),
            calls,
            inbox: Inbox::new(),
            outgoing: Vec::new(),
            leaving: Vec::new(),
            outcomes: Vec::new(),
        })
    }

    /// What was sent, received and dropped so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The interface as it was seen last, for a [`LinkWatch`].
    pub fn link(&self) -> TapLink {
        self.link.clone()
    }
}

impl Endpoint for Tap {
    fn name(&self) -> String {
        format!("tap={}", self.link.name())
    }

    fn transmit(&mut self, io: &mut PortIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        self.send(io.memory, batch, status);
    }

    fn receive(&mut self, io: &mut PortIo<'_>) -> bool {
        self.drain(io)
    }

    /// Nothing is ever pending: a write is done with a packet's memory.
    fn cancel(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn mtu(&self) -> Option<u16> {
        Some(self.mtu)
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": "tap",
            "interface": self.link.name(),
            "mtu": self.link.mtu(),
            "made_here": self.created,
            "link": self.link.state(),
            "batched": self.calls.are_batched(),
            "counters": self.counters,
        })
    }
}
