//! The completions of a queue.

use super::packet::{RxPacket, TxCompletion};

/// The completions of a queue, for the host to report to the device.
#[derive(Debug, Default)]
pub struct Completions {
    /// Packets that were written to receive buffers, in posting order.
    pub received: Vec<RxPacket>,
    /// Completed transmits that were [`TxStatus::Pending`](super::TxStatus::Pending), in order.
    pub transmitted: Vec<TxCompletion>,
}

impl Completions {
    /// Returns whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty() && self.transmitted.is_empty()
    }
}
