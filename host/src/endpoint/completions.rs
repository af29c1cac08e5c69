//! What a queue finished.

use super::packet::{RxPacket, TxCompletion};

/// What a queue finished, for the host to tell the device.
#[derive(Debug, Default)]
pub struct Completions {
    /// Packets that were written to receive buffers, in posting order.
    pub received: Vec<RxPacket>,
    /// Ends of transmits that were [`TxStatus::Pending`](super::TxStatus::Pending), in order.
    pub transmitted: Vec<TxCompletion>,
}

impl Completions {
    /// Returns whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty() && self.transmitted.is_empty()
    }
}
