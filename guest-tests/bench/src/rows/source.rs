//! An endpoint that packets come from at no cost.

use std::os::fd::BorrowedFd;

use manatee::endpoint::{Endpoint, PortIo, RECEIVE_BUDGET, Received, RxFlags, TxBatch, TxStatus};

/// Says of every posted buffer that a packet is in it, without a look at it.
#[derive(Debug)]
pub struct Source {
    length: u32,
}

impl Source {
    /// Packets of this many bytes.
    pub fn new(length: u32) -> Self {
        Self { length }
    }
}

impl Endpoint for Source {
    fn name(&self) -> String {
        "source".to_owned()
    }

    fn transmit(&mut self, _: &mut PortIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        status.resize(batch.len(), TxStatus::Sent);
    }

    fn receive(&mut self, io: &mut PortIo<'_>) -> bool {
        for _ in 0..RECEIVE_BUDGET {
            let Some(buffer) = io.rx.front() else {
                return false;
            };
            let received = Received {
                length: self.length,
                flags: RxFlags::empty(),
                vlan_tci: 0,
            };
            buffer.complete(received, io.done);
        }
        true
    }

    fn cancel(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "kind": "source" })
    }
}
