//! What an endpoint is to a port: its queues, and what they work on.

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

/// The most packets that one [`Queue::receive`] takes, so that one queue can't
/// keep the device from its other work.
pub const RECEIVE_BUDGET: usize = 64;

/// Shows how an endpoint is.
pub type EndpointView = Arc<dyn Fn() -> Value + Send + Sync>;

/// Where a port's packets go and come from.
///
/// Its [queues](Queue) do the moving. What it keeps itself is what they have in
/// common.
pub trait Endpoint: Send {
    /// Returns what this is, for people: `tap=tap0`.
    fn name(&self) -> String;

    /// Hands over its queues in order, of which there are 1 to [`MAX_QUEUES`](super::MAX_QUEUES).
    /// Called once, by whoever is to drive them.
    fn take_queues(&mut self) -> Vec<Box<dyn Queue>>;

    /// Steers packets that are received from now on; by default all go to the
    /// queue 0, without a hash. Not for an endpoint that receives nothing.
    fn steer(&mut self, _rss: Option<Arc<Rss>>) {}

    /// Returns how many packets arrived at the link that no queue ever saw, because there
    /// was no room for them.
    fn missed(&self) -> u64 {
        0
    }

    /// Returns whether its queues check what is in [`QueueIo::policy`]. Only such an endpoint
    /// can be [`Guarded`](super::Guarded).
    fn checks_policy(&self) -> bool {
        false
    }

    /// Returns the policy that its queues check, if there is one.
    fn policy(&self) -> Option<&Policy> {
        None
    }

    /// Returns the largest layer-3 packet that the other side carries, if it says.
    fn mtu(&self) -> Option<u16>;

    /// Returns its state, for `manatee inspect`. The queues' counters are added to it.
    fn inspect(&self) -> Value;

    /// Returns what [`inspect`](Self::inspect) shows, for others to look at without the device. By
    /// default it is as it was at the beginning.
    fn view(&self) -> EndpointView {
        let shown = self.inspect();
        Arc::new(move || shown.clone())
    }
}

/// A queue pair of an endpoint: it sends and receives.
///
/// All methods are called by one thread at a time. None may block. Queues of an
/// endpoint may be driven by different threads: what they share is theirs to
/// protect.
pub trait Queue: Any + Send {
    /// Takes packets in order, pushing one status each. A packet whose status
    /// is [`TxStatus::Pending`] is finished later through
    /// [`Completions::transmitted`]; pending packets finish in order.
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>);

    /// Writes up to [`RECEIVE_BUDGET`] waiting packets to posted buffers, and
    /// finishes pending transmits. Returns true if it stopped for the budget
    /// and should be called again.
    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool;

    /// Writes packets that other queues passed on to posted buffers, and drops
    /// those for which there are none: where packets go is about to change, and
    /// none of these is to arrive after one that comes later.
    fn settle(&mut self, _io: &mut QueueIo<'_>) {}

    /// Drops packets that other queues passed on: the buffers that they waited for
    /// are not to come.
    fn cancel_receive(&mut self) {}

    /// Returns how many transmits are [`TxStatus::Pending`].
    fn pending(&self) -> usize {
        0
    }

    /// Gives up pending transmits: their memory is not touched any more.
    fn cancel_transmit(&mut self);

    /// Returns a descriptor that becomes readable when [`receive`](Self::receive) has
    /// something to do, for edge-triggered polling. None if packets only ever
    /// come out of [`transmit`](Self::transmit) of this queue or another.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Returns what was sent, received and dropped so far. Shown to others after each call of
    /// another method.
    fn counters(&self) -> &Counters {
        static NONE: Counters = Counters::ZERO;
        &NONE
    }
}

/// What a queue works on.
#[derive(Debug)]
pub struct QueueIo<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// The receive buffers that the device posted.
    pub rx: &'a mut RxQueue,
    /// Where the queue notes what it finished.
    pub done: &'a mut Completions,
    /// Where it notes which other queues of the endpoint have something to receive now.
    pub woken: &'a mut QueueSet,
    /// What the guest may send and receive: checked by endpoints that
    /// [say so](Endpoint::checks_policy), where the guest can't change a packet any more.
    pub policy: Option<&'a Policy>,
}

/// An endpoint of one queue, which has nothing but that.
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
