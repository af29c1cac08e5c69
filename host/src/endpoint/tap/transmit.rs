//! Transmits from guest memory to a TAP.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{InterfaceState, Outgoing, TapQueue};
use crate::endpoint::batch::TxBatch;
use crate::endpoint::offload::{self, Request};
use crate::endpoint::packet::{TxPacket, TxStatus};
use crate::endpoint::policy::{Policy, RefusedCounters};
use crate::endpoint::vnet::{GsoType, VnetHeader};

use crate::memory::{Calls, GuestMemory, IoVecError, Segment, Span, Writes};

/// A packet that is about to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// The index of its status.
    status: usize,
    /// Its length in bytes, as passed by the guest.
    length: u64,
    /// The offloads left to the kernel.
    vnet: VnetHeader,
    tag: bool,
}

/// The limits for the packets of a port.
struct Rules<'a> {
    mtu: u16,
    policy: Option<&'a Policy>,
    /// Packets that the policy refuses.
    refused: &'a mut RefusedCounters,
}

impl From<IoVecError> for TxStatus {
    fn from(_: IoVecError) -> Self {
        Self::MemoryFault
    }
}

impl TapQueue {
    /// Sends packets and counts the outcomes.
    pub(super) fn send(
        &mut self,
        memory: &GuestMemory,
        policy: Option<&Policy>,
        batch: TxBatch<'_>,
        status: &mut Vec<TxStatus>,
    ) {
        let mut packets = batch.iter();
        while packets.len() > 0 {
            let some = packets.by_ref().take(Calls::BATCH);
            self.send_some(memory, policy, some, status);
        }
    }

    /// Sends at most [`Calls::BATCH`] packets.
    fn send_some<'a>(
        &mut self,
        memory: &GuestMemory,
        policy: Option<&Policy>,
        packets: impl ExactSizeIterator<Item = (&'a TxPacket, &'a [Segment])>,
        status: &mut Vec<TxStatus>,
    ) {
        if self.outgoing.len() < packets.len() {
            self.outgoing.resize_with(packets.len(), Outgoing::default);
        }
        self.leaving.clear();
        let mut writes = self.calls.writes();
        let mut rules = Rules {
            mtu: self.mtu,
            policy,
            refused: &mut self.counters.refused,
        };
        for ((packet, segments), frame) in packets.zip(&mut self.outgoing) {
            let length = segments.iter().map(|s| u64::from(s.length)).sum();
            match add(
                &mut writes,
                frame,
                memory,
                packet,
                segments,
                length,
                &mut rules,
            ) {
                Ok((vnet, tag)) => {
                    self.leaving.push(Leaving {
                        status: status.len(),
                        length,
                        vnet,
                        tag,
                    });
                    status.push(TxStatus::Sent);
                }
                Err(refused) => {
                    self.counters.transmit.count(refused, length);
                    status.push(refused);
                }
            }
        }
        writes.run(self.fd.as_fd(), &mut self.outcomes);
        for index in 0..self.leaving.len() {
            let Leaving {
                status: own,
                length,
                vnet,
                tag,
            } = self.leaving[index];
            match self.outcomes[index] {
                Ok(_) => {
                    self.link.note_by_packet(InterfaceState::Up);
                    self.count_offloads(&vnet, tag);
                }
                Err(error) => status[own] = self.failed(error),
            }
            self.counters.transmit.count(status[own], length);
        }
    }

    fn count_offloads(&mut self, vnet: &VnetHeader, tag: bool) {
        let counters = &mut self.counters.transmit;
        counters.checksum_offloads += u64::from(vnet.partial.is_some());
        counters.segmentation_offloads += u64::from(vnet.gso != GsoType::None);
        counters.tags_inserted += u64::from(tag);
    }

    /// Returns the status of a packet whose write failed (`tun_get_user`, `tun_chr_write_iter` in
    /// drivers/net/tun.c).
    fn failed(&mut self, error: Errno) -> TxStatus {
        let counters = &mut self.counters.transmit;
        match error {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => counters.dropped_busy += 1,
            Errno::IO => {
                counters.dropped_down += 1;
                self.link.note_by_packet(InterfaceState::Down);
            }
            Errno::BADFD => {
                counters.dropped_down += 1;
                self.link.note_by_packet(InterfaceState::Gone);
            }
            Errno::FAULT => return TxStatus::MemoryFault,
            Errno::INVAL => return TxStatus::BadHeaders,
            Errno::MSGSIZE => return TxStatus::TooLong,
            _ => {
                counters.dropped_error += 1;
                tracing::debug!(interface = self.link.name(), %error, "a packet was not sent");
            }
        }
        TxStatus::Dropped
    }
}

/// Adds the call that sends a packet: a copy of its beginning, or of all of it, and the rest in
/// guest memory. Headers are checked and patched in the copy, so a guest that changes them
/// meanwhile has no effect. Returns the offloads left to the kernel, and whether it got a tag.
fn add<'a>(
    writes: &mut Writes<'a>,
    frame: &'a mut Outgoing,
    memory: &'a GuestMemory,
    packet: &TxPacket,
    segments: &[Segment],
    length: u64,
    rules: &mut Rules<'_>,
) -> Result<(VnetHeader, bool), TxStatus> {
    let request = Request::of(packet)?;
    let segments = segments.iter().copied();
    frame.load(memory, segments.clone())?;
    // Nothing so long is sent in any way; what follows need not care.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let prepared = offload::prepare(&request, frame, length, rules.mtu.into())?;
    if let Some(policy) = rules.policy {
        policy.check_sent(frame.bytes()).map_err(|refused| {
            rules.refused.count(refused);
            TxStatus::Dropped
        })?;
    }
    let copied = frame.copied();
    let rest = prepared.length.saturating_sub(copied);
    let rest = Span::new(segments)
        .advance(copied as u64)
        .limit(rest as u64);
    writes.add(frame.behind(prepared.vnet.to_bytes()), memory, rest)?;
    Ok((prepared.vnet, request.inserts_tag()))
}
