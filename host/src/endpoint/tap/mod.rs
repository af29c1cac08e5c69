//! A TAP interface, whose other end is the guest.
//!
//! Packets are moved by one write or read each, with a virtio-net header that says which
//! checksums and segments are left to do (linux/if_tun.h, `IFF_VNET_HDR`). Where the kernel
//! permits io_uring, one system call makes up to 64 of them: entering and leaving the kernel is
//! most of the cost of a short packet. Short packets are copied, since a copy costs less than
//! passing another range of memory to the kernel.
//!
//! An interface that was created with `multi_queue` has several queues, a descriptor each, over
//! which the kernel spreads packets. Each is a queue of the port; a packet that is steered to
//! another is forwarded by copy.

mod adopt;
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
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::TxBatch;
use super::counters::Counters;
use super::crossing::{Route, Switch};
use super::head::Head;
use super::packet::TxStatus;
use super::queue::{Endpoint, EndpointView, Queue, QueueIo};
use super::rss::Rss;
use crate::memory::{Calls, Outcome};
use inbox::Inbox;
use transmit::Leaving;

/// The size of the copy of a packet, or of its beginning: a packet of the usual 1514 bytes fits.
/// Larger ones are better copied once.
type Outgoing = Head<2048>;

/// A TAP interface as an [`Endpoint`].
#[derive(Debug)]
pub struct Tap {
    link: TapLink,
    /// The MTU when it was attached, which the device keeps using.
    mtu: Option<u16>,
    created: bool,
    batched: bool,
    count: usize,
    dropped: Option<Arc<Mutex<queues::Dropped>>>,
    switch: Switch,
    queues: Vec<TapQueue>,
}

/// A queue of a [`Tap`]: a descriptor of its own.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    link: TapLink,
    mtu: u16,
    counters: Counters,
    route: Route,
    // The following is kept for its allocation, or its size.
    calls: Calls,
    inbox: Inbox,
    /// As many as one call of [`send`](Self::send) ever needed at once.
    outgoing: Vec<Outgoing>,
    leaving: Vec<Leaving>,
    outcomes: Vec<Outcome>,
}

impl Tap {
    /// Attaches to a queue of the TAP interface of this name. If there is none, makes one,
    /// down and without addresses, that goes away when this is dropped: of as many queues as
    /// there are processors, up to 16.
    ///
    /// # Errors
    ///
    /// See [`TapError`], whose message says what can be done.
    pub fn open(name: &str) -> Result<Self, TapError> {
        Self::open_with(name, None, || batched(name))
    }

    /// Opens one as [`open`](Self::open) does, with `count` queues, whether it exists or is created.
    ///
    /// # Errors
    ///
    /// The same as for [`open`](Self::open).
    pub fn with_queues(name: &str, queues: u16) -> Result<Self, TapError> {
        Self::open_with(name, Some(queues), || batched(name))
    }

    /// Continues with all queues of an interface that another process has opened and handed over.
    /// Packets that wait in them are received.
    ///
    /// # Errors
    ///
    /// [`TapError`] if they are no queues of the interface of this name, or not all.
    pub fn from_queues(name: &str, queues: Vec<OwnedFd>) -> Result<Self, TapError> {
        let (own, attached) = adopt::adopt(queues)?;
        if own != name {
            return Err(TapError::Different(name.to_owned(), own));
        }
        Ok(Self::of(name, attached, || batched(name)))
    }

    fn open_with(
        name: &str,
        queues: Option<u16>,
        calls: impl Fn() -> Calls,
    ) -> Result<Self, TapError> {
        Ok(Self::of(name, attach::attach(name, queues)?, calls))
    }

    /// Uses queues of one interface, a TAP or macvtap, that another process opened: with
    /// `IFF_NO_PI` and `IFF_VNET_HDR`.
    ///
    /// # Errors
    ///
    /// See [`TapError`], whose message says what can be done.
    pub fn from_descriptors(fds: Vec<OwnedFd>) -> Result<Self, TapError> {
        let (name, attached) = adopt::adopt(fds)?;
        Ok(Self::of(&name, attached, || batched(&name)))
    }

    fn of(name: &str, attached: attach::Attached, calls: impl Fn() -> Calls) -> Self {
        let attach::Attached {
            fds,
            index,
            mtu,
            dropped,
            created,
        } = attached;
        if created {
            tracing::info!(
                interface = name,
                queues = fds.len(),
                "made a TAP; bring it up with `ip link set {name} up`"
            );
        }
        // One whose MTU is unknown is assumed to carry the maximum.
        let link = TapLink::new(name, index, mtu.unwrap_or(u16::MAX));
        // Fits: there are as many as were asked for.
        let (switch, routes) = Switch::new(fds.len() as u16);
        let queues = fds.into_iter().zip(routes);
        let queue_mtu = mtu.unwrap_or(u16::MAX);
        let queues =
            queues.map(|(fd, route)| TapQueue::new(fd, link.clone(), queue_mtu, route, calls()));
        let queues: Vec<_> = queues.collect();
        Self {
            link,
            mtu,
            created,
            batched: queues.iter().all(|queue| queue.calls.are_batched()),
            count: queues.len(),
            dropped: dropped.map(|dropped| Arc::new(Mutex::new(dropped))),
            switch,
            queues,
        }
    }

    /// Returns the descriptors of its queues, until the queues were taken.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(|queue| queue.fd.as_fd())
    }

    /// Returns the interface as it was seen last, for a [`LinkWatch`].
    pub fn link(&self) -> TapLink {
        self.link.clone()
    }
}

/// Returns calls that share system calls, if the kernel permits that.
fn batched(name: &str) -> Calls {
    Calls::batched().unwrap_or_else(|error| {
        tracing::info!(
            interface = name,
            "a packet takes a system call, since io_uring is unavailable: {error}"
        );
        Calls::one_by_one()
    })
}

impl TapQueue {
    fn new(fd: OwnedFd, link: TapLink, mtu: u16, route: Route, calls: Calls) -> Self {
        Self {
            fd,
            link,
            mtu,
            counters: Counters::default(),
            route,
            calls,
            inbox: Inbox::new(),
            outgoing: Vec::new(),
            leaving: Vec::new(),
            outcomes: Vec::new(),
        }
    }
}

impl Endpoint for Tap {
    fn name(&self) -> String {
        format!("tap={}", self.link.name())
    }

    fn take_queues(&mut self) -> Vec<Box<dyn Queue>> {
        let queues = self.queues.drain(..);
        queues.map(|queue| Box::new(queue) as _).collect()
    }

    fn steer(&mut self, rss: Option<Arc<Rss>>) {
        self.switch.steer(rss);
    }

    /// Returns what the interface's own queues dropped; 0 if the kernel does not report it.
    fn missed(&self) -> u64 {
        missed(self.dropped.as_deref())
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn checks_policy(&self) -> bool {
        true
    }

    fn inspect(&self) -> serde_json::Value {
        (self.view())()
    }

    fn view(&self) -> EndpointView {
        let (link, queues) = (self.link(), self.count);
        let (created, batched) = (self.created, self.batched);
        let dropped = self.dropped.clone();
        Arc::new(move || {
            serde_json::json!({
                "kind": "tap",
                "interface": link.name(),
                "queues": queues,
                "mtu": link.mtu(),
                "made_here": created,
                "link": link.state(),
                "batched": batched,
                "missed": missed(dropped.as_deref()),
            })
        })
    }
}

/// Returns what the interface's own queues dropped; 0 if the kernel does not report it.
fn missed(dropped: Option<&Mutex<queues::Dropped>>) -> u64 {
    let counted = dropped.map(|dropped| dropped.lock().count());
    counted.and_then(Result::ok).unwrap_or(0)
}

impl Queue for TapQueue {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        self.send(io.memory, io.policy, batch, status);
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        self.take_in(io)
    }

    fn settle(&mut self, io: &mut QueueIo<'_>) {
        self.route.settle(io, &mut self.counters.receive);
    }

    fn cancel_receive(&mut self) {
        self.route.drop_waiting(&mut self.counters.receive);
    }

    /// Does nothing, as nothing is ever pending: a write is done with a packet's memory.
    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
