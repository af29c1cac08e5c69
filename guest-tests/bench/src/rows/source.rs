//! An endpoint whose packets cost nothing.

use std::os::fd::BorrowedFd;

use manatee::endpoint::{
    Queue, QueueIo, RECEIVE_BUDGET, Received, RxFlags, Single, TxBatch, TxStatus,
};

/// Reports a packet in every posted buffer, without writing to it.
#[derive(Debug)]
pub struct Source {
    length: u32,
}

impl Source {
    /// Creates a source of packets of this many bytes.
    pub fn new(length: u32) -> Single<Self> {
        Single::new("source", Self { length })
    }
}

impl Queue for Source {
    fn transmit(&mut self, _: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        status.resize(batch.len(), TxStatus::Sent);
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        for _ in 0..RECEIVE_BUDGET {
            let Some(buffer) = io.rx.front() else {
                return false;
            };
            let received = Received {
                length: self.length,
                flags: RxFlags::empty(),
                vlan_tci: 0,
                hash: 0,
            };
            buffer.complete(received, io.done);
        }
        true
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
