//! A receive queue and the state of its buffers.

use crate::bnic::ledger::Ledger;
use crate::gdma::ids::{CqId, RqId};

/// A receive queue of a vport.
#[derive(Debug)]
pub struct ReceiveQueue {
    /// Number of its object.
    pub object: u32,
    /// Number among the vport's receive queues.
    pub number: u16,
    /// The queue that it takes buffers from.
    pub rq: RqId,
    /// The queue that it reports to.
    pub cq: CqId,
    /// Buffers that were read and not completed.
    pub ledger: Ledger<Buffer>,
    /// Whether it has unread WQEs that wait for their turn.
    pub is_waiting: bool,
}

/// The state of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// The host holds it.
    Posted,
    /// Its WQE is malformed: nothing will ever be received into it.
    Malformed,
}

impl ReceiveQueue {
    /// Creates a queue that has read nothing.
    pub fn new(object: u32, number: u16, rq: RqId, cq: CqId) -> Self {
        Self {
            object,
            number,
            rq,
            cq,
            ledger: Ledger::default(),
            is_waiting: false,
        }
    }
}
