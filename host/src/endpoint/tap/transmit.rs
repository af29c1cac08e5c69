//! From guest memory to a TAP.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Link, Tap};
use crate::endpoint::headers::ETHERNET_BYTES;
use crate::endpoint::offload::{self, Request};
use crate::endpoint::vnet::{GsoType, VNET_HEADER_BYTES, VnetHeader};
use crate::endpoint::{TxPacket, TxStatus};
use crate::memory::{GuestMemory, Segment, Span};

/// A packet that was not sent, and why.
enum Unsent {
    Refused(TxStatus),
    Failed(io::Error),
}

impl From<offload::Refusal> for Unsent {
    fn from(refusal: offload::Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<crate::memory::Fault> for Unsent {
    fn from(_: crate::memory::Fault) -> Self {
        Self::Refused(TxStatus::MemoryFault)
    }
}

impl From<crate::memory::IoVecError> for Unsent {
    fn from(_: crate::memory::IoVecError) -> Self {
        Self::Refused(TxStatus::MemoryFault)
    }
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Tap {
    /// Sends a packet and counts what became of it.
    pub(super) fn send(
        &mut self,
        memory: &GuestMemory,
        packet: &TxPacket,
        segments: &[Segment],
    ) -> TxStatus {
        let length = segments.iter().map(|s| u64::from(s.length)).sum();
        let sent = Request::of(packet)
            .map_err(Unsent::from)
            .and_then(|request| {
                // Nothing so long is sent in any way; what follows need not care.
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if request.is_nothing() {
                    self.send_as_is(memory, segments, length)
                } else {
                    self.send_prepared(memory, segments, length, &request)
                }
            });
        let status = match sent {
            Ok(()) => {
                self.note(Link::Up);
                TxStatus::Sent
            }
            Err(Unsent::Refused(status)) => status,
            Err(Unsent::Failed(error)) => self.failed(&error),
        };
        self.counters.transmit.count(status, length);
        status
    }

    /// Hands the kernel the packet where it lies.
    fn send_as_is(
        &mut self,
        memory: &GuestMemory,
        segments: &[Segment],
        length: usize,
    ) -> Result<(), Unsent> {
        let mtu = usize::from(self.mtu);
        if length < ETHERNET_BYTES || length > ETHERNET_BYTES + mtu {
            self.head.load(memory, segments.iter().copied())?;
            offload::check_length(self.head.bytes(), length, mtu)?;
        }
        let ranges =
            self.ranges
                .gather(&[&[0; VNET_HEADER_BYTES]], memory, segments.iter().copied())?;
        ranges.write_to(self.fd.as_fd())?;
        Ok(())
    }

    /// Hands the kernel headers that were checked and patched in a copy, and
    /// the rest of the packet where it lies. A guest that changes its headers
    /// meanwhile changes nothing.
    fn send_prepared(
        &mut self,
        memory: &GuestMemory,
        segments: &[Segment],
        length: usize,
        request: &Request,
    ) -> Result<(), Unsent> {
        let segments = segments.iter().copied();
        self.head.load(memory, segments.clone())?;
        let prepared = offload::prepare(request, &mut self.head, length, self.mtu.into())?;
        let copied = self.head.copied();
        let rest = prepared.length.saturating_sub(copied);
        let rest = Span::new(segments)
            .advance(copied as u64)
            .limit(rest as u64);
        let vnet = prepared.vnet.to_bytes();
        self.ranges
            .gather(&[&vnet, self.head.bytes()], memory, rest)?
            .write_to(self.fd.as_fd())?;
        self.count_offloads(&prepared.vnet, request);
        Ok(())
    }

    fn count_offloads(&mut self, vnet: &VnetHeader, request: &Request) {
        let counters = &mut self.counters.transmit;
        counters.checksum_offloads += u64::from(vnet.partial.is_some());
        counters.segmentation_offloads += u64::from(vnet.gso != GsoType::None);
        counters.tags_inserted += u64::from(request.inserts_tag());
    }

    /// What a failed write means for the packet (`tun_get_user`,
    /// `tun_chr_write_iter` in drivers/net/tun.c).
    fn failed(&mut self, error: &io::Error) -> TxStatus {
        let counters = &mut self.counters.transmit;
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => counters.dropped_busy += 1,
            Some(Errno::IO) => {
                counters.dropped_down += 1;
                self.note(Link::Down);
            }
            Some(Errno::BADFD) => {
                counters.dropped_down += 1;
                self.note(Link::Gone);
            }
            Some(Errno::FAULT) => return TxStatus::MemoryFault,
            Some(Errno::INVAL) => return TxStatus::BadHeaders,
            Some(Errno::MSGSIZE) => return TxStatus::TooLong,
            _ => {
                counters.dropped_error += 1;
                tracing::debug!(interface = self.name, %error, "a packet was not sent");
            }
        }
        TxStatus::Dropped
    }
}
