//! Transmits from guest memory to a stream.

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::{PREFIX_BYTES, StreamQueue};
use crate::endpoint::batch::TxBatch;
use crate::endpoint::offload::{self, Request};
use crate::endpoint::packet::{TxPacket, TxStatus};
use crate::endpoint::policy::Policy;
use crate::endpoint::vnet::{GsoType, VnetHeader};
use crate::endpoint::{checksum, segmentation};
use crate::memory::{GuestMemory, Segment, Span};

/// The longest IP packet there is. A stream has no MTU of its own.
const MAX_IP_BYTES: usize = 65_535;
/// The number of gathered bytes from which on they are sent.
const ENOUGH: usize = 256 << 10;

/// A packet that was gathered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// The index of its status.
    status: usize,
    /// Its length in bytes, as passed by the guest.
    length: u64,
    /// Where its frames end.
    end: usize,
    vnet: VnetHeader,
    tag: bool,
}

impl StreamQueue {
    /// Sends packets and counts the outcomes.
    pub(super) fn send(
        &mut self,
        memory: &GuestMemory,
        policy: Option<&Policy>,
        batch: TxBatch<'_>,
        status: &mut Vec<TxStatus>,
    ) {
        self.finish_rest();
        for (packet, segments) in batch.iter() {
            let length = segments.iter().map(|s| u64::from(s.length)).sum();
            let begin = self.outgoing.len();
            match self.gather(memory, policy, packet, segments, length) {
                Ok((vnet, tag)) => {
                    self.leaving.push(Leaving {
                        status: status.len(),
                        length,
                        end: self.outgoing.len(),
                        vnet,
                        tag,
                    });
                    status.push(TxStatus::Sent);
                }
                Err(refused) => {
                    self.outgoing.truncate(begin);
                    self.counters.transmit.count(refused, length);
                    status.push(refused);
                }
            }
            if self.outgoing.len() >= ENOUGH {
                self.leave(status);
            }
        }
        self.leave(status);
    }

    /// Copies a packet, performs its offloads, and appends its frames to the output.
    fn gather(
        &mut self,
        memory: &GuestMemory,
        policy: Option<&Policy>,
        packet: &TxPacket,
        segments: &[Segment],
        length: u64,
    ) -> Result<(VnetHeader, bool), TxStatus> {
        let request = Request::of(packet)?;
        let segments = segments.iter().copied();
        self.head.load(memory, segments.clone())?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let prepared = offload::prepare(&request, &mut self.head, length, MAX_IP_BYTES)?;
        if let Some(policy) = policy {
            policy.check_sent(self.head.bytes()).map_err(|refused| {
                self.counters.refused.count(refused);
                TxStatus::Dropped
            })?;
        }
        let copied = self.head.copied();
        let rest = prepared.length.saturating_sub(copied);
        self.frame.clear();
        self.frame.extend_from_slice(self.head.bytes());
        let own = self.frame.len();
        self.frame.resize(own + rest, 0);
        Span::new(segments)
            .advance(copied as u64)
            .read(memory, &mut self.frame[own..])?;
        let vnet = prepared.vnet;
        if vnet.gso != GsoType::None {
            segmentation::cut(&self.frame, &vnet, &mut self.outgoing, prefix)
                .ok_or(TxStatus::BadHeaders)?;
            return Ok((vnet, request.inserts_tag()));
        }
        if let Some(partial) = vnet.partial {
            let start = usize::from(partial.start);
            let field = start + usize::from(partial.offset);
            let sum = checksum::of(&self.frame[start..]);
            self.frame[field..field + 2].copy_from_slice(&sum);
        }
        prefix(&mut self.outgoing, self.frame.len());
        self.outgoing.extend_from_slice(&self.frame);
        Ok((vnet, request.inserts_tag()))
    }

    /// Sends the output, as far as there is room: a packet that was begun is completed later.
    fn leave(&mut self, status: &mut [TxStatus]) {
        let outgoing = std::mem::take(&mut self.outgoing);
        // Nothing is begun while another packet is incomplete.
        let sent = match self.rest.is_empty() {
            true => self.push(&outgoing),
            false => 0,
        };
        let mut begin = 0;
        for index in 0..self.leaving.len() {
            let leaving = self.leaving[index];
            if leaving.end <= sent || begin < sent {
                self.rest
                    .extend(outgoing.get(sent..leaving.end).unwrap_or_default());
                self.count_offloads(&leaving);
            } else {
                status[leaving.status] = TxStatus::Dropped;
                let counters = &mut self.counters.transmit;
                match self.socket {
                    Some(_) => counters.dropped_busy += 1,
                    None => counters.dropped_down += 1,
                }
            }
            let counters = &mut self.counters.transmit;
            counters.count(status[leaving.status], leaving.length);
            begin = leaving.end;
        }
        if !self.rest.is_empty() {
            self.wait_for_room(true);
        }
        self.leaving.clear();
        self.outgoing = outgoing;
        self.outgoing.clear();
    }

    fn count_offloads(&mut self, leaving: &Leaving) {
        let counters = &mut self.counters.transmit;
        counters.checksum_offloads += u64::from(leaving.vnet.partial.is_some());
        counters.segmentation_offloads += u64::from(leaving.vnet.gso != GsoType::None);
        counters.tags_inserted += u64::from(leaving.tag);
    }

    /// Sends the rest of a packet that was begun, as far as there is room.
    pub(super) fn finish_rest(&mut self) {
        if self.rest.is_empty() {
            return;
        }
        let mut rest = std::mem::take(&mut self.rest);
        let sent = self.push(&rest);
        if self.socket.is_none() {
            return;
        }
        rest.drain(..sent);
        self.rest = rest;
        if self.rest.is_empty() {
            self.wait_for_room(false);
        }
    }

    /// Sends bytes until there is no room. Returns how many.
    fn push(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len()
            && let Some(socket) = &self.socket
        {
            match send(
                socket,
                &bytes[sent..],
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => break,
                Err(error) => self.lose(&error.to_string()),
            }
        }
        sent
    }
}

/// Adds the length of a frame that follows.
fn prefix(out: &mut Vec<u8>, length: usize) {
    // Fits: no frame is longer than an IP packet with its link header.
    let bytes: [u8; PREFIX_BYTES] = (length as u32).to_be_bytes();
    out.extend_from_slice(&bytes);
}
