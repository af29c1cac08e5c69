//! The traits of an endpoint and its queues, and what a queue works on.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde_json::Value;

use super::batch::TxBatch;
use super::completions::Completions;
use super::counters::Counters;
use super::packet::TxStatus;
use super::policy::Policy;
use super::queue_set::QueueSet;
use super::rss::Rss;
use super::rx_queue::RxQueue;
use crate::memory::GuestMemory;

/// The most packets that one [`Queue::receive`] delivers, so that a queue does not keep the
/// device from its other work.
pub const RECEIVE_BUDGET: usize = 64;

/// Returns an endpoint's state as JSON.
pub type EndpointView = Arc<dyn Fn() -> Value + Send + Sync>;

/// The destination and the source of a port's packets.
///
/// Its [queues](Queue) move the packets. It keeps only the state that they share.
pub trait Endpoint: Send {
    /// Returns a description for people: `tap=tap0`.
    fn name(&self) -> String;

    /// Returns its 1 to [`MAX_QUEUES`](super::MAX_QUEUES) queues in order. Called once, by the owner
    /// of the queues.
    fn take_queues(&mut self) -> Vec<Box<dyn Queue>>;

    /// Steers packets that are received from now on; by default all go to queue 0, without a
    /// hash. Not for an endpoint that receives nothing.
    fn steer(&mut self, _rss: Option<Arc<Rss>>) {}

    /// Returns how many packets the link dropped because there was no room for them, before any
    /// queue saw them.
    fn missed(&self) -> u64 {
        0
    }

    /// Returns whether its queues check [`QueueIo::policy`]. Only such an endpoint can be
    /// [`Guarded`](super::Guarded).
    fn checks_policy(&self) -> bool {
        false
    }

    /// Returns the policy that its queues check, if there is one.
    fn policy(&self) -> Option<&Policy> {
        None
    }

    /// Returns the largest layer-3 packet that the other side carries, if known.
    fn mtu(&self) -> Option<u16>;

    /// Returns its state, for `manatee inspect`. The queues' counters are added to it.
    fn inspect(&self) -> Value;

    /// Returns a closure that returns what [`inspect`](Self::inspect) does, for readers without the
    /// lock. By default it returns the initial state.
    fn view(&self) -> EndpointView {
        let shown = self.inspect();
        Arc::new(move || shown.clone())
    }
}

/// A queue pair of an endpoint: it sends and receives.
///
/// Methods are called by one thread at a time. None may block. Queues of an endpoint may be
/// driven by different threads, and must synchronize the state that they share.
pub trait Queue: Any + Send {
    /// Sends packets in order, pushing one status each. A packet whose status is
    /// [`TxStatus::Pending`] is completed later through [`Completions::transmitted`]; pending
    /// packets complete in order.
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>);

    /// Writes up to [`RECEIVE_BUDGET`] waiting packets to posted buffers, and completes pending
    /// transmits. Returns true if the budget ran out, and it should be called again.
    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool;

    /// Writes packets that other queues forwarded to posted buffers, and drops those without
    /// one: the steering is about to change, and none of them may arrive after a later one.
    fn settle(&mut self, _io: &mut QueueIo<'_>) {}

    /// Drops packets that other queues forwarded: the buffers that they waited for will not be
    /// posted.
    fn cancel_receive(&mut self) {}

    /// Returns how many transmits are [`TxStatus::Pending`].
    fn pending(&self) -> usize {
        0
    }

    /// Cancels pending transmits: their memory is not accessed any more.
    fn cancel_transmit(&mut self);

    /// Returns a descriptor that becomes readable when [`receive`](Self::receive) has something to
    /// do, for edge-triggered polling. None if packets only ever originate from
    /// [`transmit`](Self::transmit) of this queue or another.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Returns the counters. They are published after each call of another method.
    fn counters(&self) -> &Counters {
        static NONE: Counters = Counters::ZERO;
        &NONE
    }
}

/// The memory, buffers and lists that a queue works on.
#[derive(Debug)]
pub struct QueueIo<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// The receive buffers that the device posted.
    pub rx: &'a mut RxQueue,
    /// The list to which the queue adds its completions.
    pub done: &'a mut Completions,
    /// The set to which it adds other queues that have something to receive now.
    pub woken: &'a mut QueueSet,
    /// The policy of the port: checked by endpoints that [say so](Endpoint::checks_policy), where
    /// the guest can't change a packet any more.
    pub policy: Option<&'a Policy>,
}

/// An endpoint of one queue without further state.
pub struct Single<Q> {
    name: String,
    queue: Option<Q>,
}

impl<Q: Queue + 'static> Single<Q> {
    /// Creates an endpoint with this queue.
    pub fn new(name: impl Into<String>, queue: Q) -> Self {
        Self {
            name: name.into(),
            queue: Some(queue),
        }
    }
}

impl<Q: Queue + 'static> Endpoint for Single<Q> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn take_queues(&mut self) -> Vec<Box<dyn Queue>> {
        let queue = self.queue.take();
        queue
            .map(|queue| Box::new(queue) as _)
            .into_iter()
            .collect()
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn inspect(&self) -> Value {
        serde_json::json!({ "kind": self.name })
    }
}
