//! A TAP interface: the guest is on the other end of it.
//!
//! Packets are moved by one `writev` or `readv` each, straight between guest
//! memory and the kernel, with a virtio-net header that says which checksums
//! and segments are left to do (linux/if_tun.h, `IFF_VNET_HDR`).

mod attach;
mod ioctl;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;
mod untag;

pub use attach::TapError;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::counters::Counters;
use super::head::Head;
use super::{Endpoint, PortIo, TxBatch, TxStatus};
use crate::memory::IoVecs;

/// What a packet may be longer than its buffer without its length being lost:
/// more than any interface carries.
const TAIL_BYTES: usize = 128 << 10;

/// A TAP interface as an [`Endpoint`].
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    /// As it was when attached: the device is told once and holds to it.
    mtu: u16,
    created: bool,
    link: Link,
    counters: Counters,
    // What follows is kept for its allocation, or its size.
    ranges: IoVecs,
    head: Head,
    /// Takes what a receive buffer has no room for.
    tail: Box<[u8]>,
    /// Holds a frame while its tag is taken out.
    untagging: Vec<u8>,
}

/// What became of the interface, as far as packets show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Link {
    Up,
    Down,
    /// Somebody deleted the interface.
    Gone,
}

impl Tap {
    /// Attaches to the TAP interface of this name. If there is none, makes
    /// one, down and without addresses, that goes away when this is dropped.
    ///
    /// # Errors
    ///
    /// See [`TapError`], whose message says what can be done.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let attach::Attached { fd, mtu, created } = attach::attach(name)?;
        if created {
            tracing::info!(
                interface = name,
                "made a TAP; bring it up with `ip link set {name} up`"
            );
        }
        Ok(Self {
            fd,
            name: name.to_owned(),
            mtu,
            created,
            link: Link::Up,
            counters: Counters::default(),
            ranges: IoVecs::new(),
            head: Head::default(),
            tail: vec![0; TAIL_BYTES].into_boxed_slice(),
            untagging: Vec::new(),
        })
    }

    /// What was sent, received and dropped so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Remembers the interface's state and logs when it changes.
    fn note(&mut self, link: Link) {
        if std::mem::replace(&mut self.link, link) == link {
            return;
        }
        let interface = &self.name;
        match link {
            Link::Up => tracing::info!(interface, "the interface is up"),
            Link::Down => tracing::warn!(
                interface,
                "the interface is down, packets are dropped; `ip link set {interface} up`"
            ),
            Link::Gone => tracing::error!(interface, "the interface was deleted"),
        }
    }
}

impl Endpoint for Tap {
    fn name(&self) -> String {
        format!("tap={}", self.name)
    }

    fn transmit(&mut self, io: &mut PortIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        status.extend(
            batch
                .iter()
                .map(|(packet, segments)| self.send(io.memory, packet, segments)),
        );
    }

    fn receive(&mut self, io: &mut PortIo<'_>) -> bool {
        self.drain(io)
    }

    /// Nothing is ever pending: `writev` is done with a packet's memory.
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
            "interface": self.name,
            "mtu": self.mtu,
            "made-here": self.created,
            "link": self.link,
            "counters": self.counters,
        })
    }
}
