//! An endpoint that leads nowhere: for a port that has nothing on the other
//! side, and for measuring everything but the other side.

use std::os::fd::BorrowedFd;

use super::counters::Counters;
use super::headers::ETHERNET_BYTES;
use super::{Endpoint, PortIo, TxBatch, TxStatus};
use crate::memory::{Access, GuestMemory, Segment};

/// Swallows what is transmitted, and never receives.
#[derive(Debug, Default)]
pub struct Null {
    counters: Counters,
}

impl Null {
    /// A new one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Packets are not looked at, but they must be there: a guest whose
    /// descriptors are wrong finds out here too.
    fn swallow(&mut self, memory: &GuestMemory, segments: &[Segment]) -> TxStatus {
        let length = segments.iter().map(|s| u64::from(s.length)).sum();
        let missing = |s: &Segment| {
            memory
                .check(s.address, s.length.into(), Access::Read)
                .is_err()
        };
        let status = if segments.iter().any(missing) {
            TxStatus::MemoryFault
        } else if length < ETHERNET_BYTES as u64 {
            TxStatus::BadHeaders
        } else {
            TxStatus::Sent
        };
        self.counters.transmit.count(status, length);
        status
    }
}

impl Endpoint for Null {
    fn name(&self) -> String {
        "null".to_owned()
    }

    fn transmit(&mut self, io: &mut PortIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        status.extend(
            batch
                .iter()
                .map(|(_, segments)| self.swallow(io.memory, segments)),
        );
    }

    fn receive(&mut self, _: &mut PortIo<'_>) -> bool {
        false
    }

    fn cancel(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "kind": "null", "counters": self.counters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::testing::{Guest, TX_AREA, plain};
    use crate::memory::tests::{NOWHERE, READ_ONLY, UNREACHABLE, segment};

    #[test]
    fn packets_vanish_but_must_have_been_there() {
        let (mut guest, mut null) = (Guest::new(), Null::new());
        guest.post();
        let mut send = |at, length| guest.send_cut(&mut null, &[], plain(), &[segment(at, length)]);
        assert_eq!(send(TX_AREA, 60), TxStatus::Sent);
        assert_eq!(send(READ_ONLY, 60), TxStatus::Sent);
        assert_eq!(send(UNREACHABLE, 60), TxStatus::MemoryFault);
        assert_eq!(send(NOWHERE, 60), TxStatus::MemoryFault);
        assert_eq!(send(u64::MAX, u32::MAX), TxStatus::MemoryFault);
        assert_eq!(send(TX_AREA, 13), TxStatus::BadHeaders);
        assert!(!null.receive(&mut guest.io()));
        assert!(guest.received().is_empty());
        assert_eq!(null.inspect()["counters"]["transmit"]["packets"], 2);
        assert_eq!(null.inspect()["counters"]["transmit"]["bytes"], 120);
    }
}
