//! An endpoint whose queues check a policy.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde_json::Value;

use super::Policy;
use crate::endpoint::batch::TxBatch;
use crate::endpoint::counters::Counters;
use crate::endpoint::packet::TxStatus;
use crate::endpoint::queue::{Endpoint, EndpointView, Queue, QueueIo};
use crate::endpoint::rss::Rss;

/// An endpoint whose queues check a [`Policy`].
pub struct Guarded {
    endpoint: Box<dyn Endpoint>,
    policy: Arc<Policy>,
}

/// An endpoint whose queues don't check policies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not check what a guest sends and receives: use it without a policy")]
pub struct Unguardable(String);

impl Guarded {
    /// Wraps an endpoint so that its queues check a policy.
    ///
    /// # Errors
    ///
    /// If its queues check no policies.
    pub fn new(endpoint: Box<dyn Endpoint>, policy: Policy) -> Result<Self, Unguardable> {
        match endpoint.checks_policy() {
            true => Ok(Self {
                endpoint,
                policy: Arc::new(policy),
            }),
            false => Err(Unguardable(endpoint.name())),
        }
    }
}

impl Endpoint for Guarded {
    fn name(&self) -> String {
        self.endpoint.name()
    }

    fn take_queues(&mut self) -> Vec<Box<dyn Queue>> {
        let queues = self.endpoint.take_queues().into_iter();
        let guard = |queue| {
            let policy = self.policy.clone();
            Box::new(GuardedQueue { queue, policy }) as _
        };
        queues.map(guard).collect()
    }

    fn steer(&mut self, rss: Option<Arc<Rss>>) {
        self.endpoint.steer(rss);
    }

    fn missed(&self) -> u64 {
        self.endpoint.missed()
    }

    fn mtu(&self) -> Option<u16> {
        self.endpoint.mtu()
    }

    fn policy(&self) -> Option<&Policy> {
        Some(&self.policy)
    }

    fn inspect(&self) -> Value {
        self.endpoint.inspect()
    }

    fn view(&self) -> EndpointView {
        self.endpoint.view()
    }
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.endpoint.name();
        f.debug_struct("Guarded")
            .field("endpoint", &name)
            .field("policy", &self.policy)
            .finish()
    }
}

/// A queue that passes the policy on.
struct GuardedQueue {
    queue: Box<dyn Queue>,
    policy: Arc<Policy>,
}

impl GuardedQueue {
    fn with<T>(
        &mut self,
        io: &mut QueueIo<'_>,
        act: impl FnOnce(&mut dyn Queue, &mut QueueIo<'_>) -> T,
    ) -> T {
        let mut io = QueueIo {
            memory: io.memory,
            rx: io.rx,
            done: io.done,
            woken: io.woken,
            policy: Some(&self.policy),
        };
        act(&mut *self.queue, &mut io)
    }
}

impl Queue for GuardedQueue {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        self.with(io, |queue, io| queue.transmit(io, batch, status));
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        self.with(io, |queue, io| queue.receive(io))
    }

    fn settle(&mut self, io: &mut QueueIo<'_>) {
        self.with(io, |queue, io| queue.settle(io));
    }

    fn cancel_receive(&mut self) {
        self.queue.cancel_receive();
    }

    fn pending(&self) -> usize {
        self.queue.pending()
    }

    fn cancel_transmit(&mut self) {
        self.queue.cancel_transmit();
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.queue.readiness()
    }

    fn counters(&self) -> &Counters {
        self.queue.counters()
    }
}
