//! Receives from a TAP into guest memory.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::inbox::Arrived;
use super::{InterfaceState, TapQueue};
use crate::endpoint::completions::Completions;
use crate::endpoint::crossing::About;
use crate::endpoint::packet::RxFlags;
use crate::endpoint::policy::Refused;
use crate::endpoint::queue::{QueueIo, RECEIVE_BUDGET};
use crate::endpoint::rss::Destination;
use crate::endpoint::rx_queue::{Posted, Received};
use crate::endpoint::vnet::PartialChecksum;
use crate::endpoint::{checksum, rx_flags};
use crate::memory::{GuestMemory, Span};

impl TapQueue {
    /// Fills posted buffers until packets, buffers or the budget run out;
    /// returns true if it was the budget.
    pub(super) fn take_in(&mut self, io: &mut QueueIo<'_>) -> bool {
        self.route.refresh();
        // Half of the budget is for packets that arrive on this queue itself.
        let used = match self.route.is_shared() {
            true => self
                .route
                .take_in(io, &mut self.counters.receive, RECEIVE_BUDGET / 2),
            false => 0,
        };
        let budget = RECEIVE_BUDGET - used;
        let more = match self.route.is_own() {
            true => self.drain(io, budget),
            false => self.spread(io, budget),
        };
        more || self.route.has_more(io)
    }

    /// Writes frames to this queue's own buffers. Reads no more frames than there are buffers: the
    /// others stay in the interface's queue, where the kernel's limits hold.
    fn drain(&mut self, io: &mut QueueIo<'_>, budget: usize) -> bool {
        let mut dry = false;
        for used in 0..budget {
            let most = io.rx.len().min(budget - used);
            let Some(buffer) = io.rx.front() else {
                return false;
            };
            if self.inbox.is_empty() && !dry {
                dry = self.fetch(most);
            }
            let Some((arrived, frame)) = self.inbox.front() else {
                return false;
            };
            if let Some(policy) = io.policy
                && let Err(refused) = policy.check_received(frame, arrived.tag())
            {
                self.refuse(refused);
                continue;
            }
            let destination = self.route.look(frame, arrived.layout.as_ref());
            self.deliver(io.memory, buffer, io.done, destination);
        }
        true
    }

    /// Forwards frames to the queues that they are steered to. One without room is dropped, so that
    /// none waits for another queue, unless all are steered to one.
    fn spread(&mut self, io: &mut QueueIo<'_>, budget: usize) -> bool {
        let mut dry = false;
        for used in 0..budget {
            if self.inbox.is_empty() && !dry {
                dry = self.fetch(budget - used);
            }
            let Some((arrived, frame)) = self.inbox.front() else {
                return false;
            };
            if let Some(policy) = io.policy
                && let Err(refused) = policy.check_received(frame, arrived.tag())
            {
                self.refuse(refused);
                continue;
            }
            let destination = self.route.look(frame, arrived.layout.as_ref());
            if self.route.leads_here(destination.queue)
                && let Some(buffer) = io.rx.front()
            {
                self.deliver(io.memory, buffer, io.done, destination);
            } else if !self.pass(io, destination) {
                return false;
            }
        }
        true
    }

    /// Drops the next frame, because the policy refuses it.
    fn refuse(&mut self, refused: Refused) {
        self.counters.refused.count(refused);
        self.inbox.pop();
    }

    /// Forwards the next frame. Returns false if it waits for room.
    fn pass(&mut self, io: &mut QueueIo<'_>, destination: Destination) -> bool {
        let Some((arrived, frame)) = self.inbox.front() else {
            return false;
        };
        let counters = &mut self.counters.receive;
        counters.checksums_completed += u64::from(complete_checksum(arrived, frame));
        let about = arrived.about(destination);
        let passed = self
            .route
            .pass(destination.queue, about, io.woken, |bytes| {
                bytes.extend_from_slice(frame);
                Ok::<_, std::convert::Infallible>(())
            });
        if passed == Ok(false) {
            if self.route.holds() {
                return false;
            }
            counters.dropped += 1;
        }
        self.inbox.pop();
        true
    }

    /// Reads frames. Returns true if no more wait: a later one is then an edge for the poller.
    fn fetch(&mut self, most: usize) -> bool {
        let fetched = self.inbox.fetch(&mut self.calls, self.fd.as_fd(), most);
        if fetched.count > 0 {
            self.link.note_by_packet(InterfaceState::Up);
        }
        match fetched.end {
            None => return false,
            Some(Errno::AGAIN) => {}
            Some(Errno::BADFD) => self.link.note_by_packet(InterfaceState::Gone),
            Some(error) => {
                self.counters.receive.errors += 1;
                tracing::debug!(interface = self.link.name(), %error, "no packet was received");
            }
        }
        true
    }

    /// Writes the next frame to a buffer. If that is not in guest memory, the buffer is completed
    /// with an error, and the frame waits for the next one.
    fn deliver(
        &mut self,
        memory: &GuestMemory,
        buffer: Posted<'_>,
        done: &mut Completions,
        destination: Destination,
    ) {
        let Some((arrived, frame)) = self.inbox.front() else {
            return;
        };
        let counters = &mut self.counters.receive;
        let truncated = frame.len() as u64 > buffer.capacity();
        if !truncated {
            let completed = complete_checksum(arrived, frame);
            counters.checksums_completed += u64::from(completed);
        }
        let written = Span::new(buffer.segments()).write(memory, frame);
        if written.is_err() {
            counters.memory_faults += 1;
            return buffer.complete(Received::FAULT, done);
        }
        counters.count(frame.len() as u64, truncated);
        let About {
            mut flags,
            vlan_tci,
            hash,
        } = arrived.about(destination);
        if truncated {
            flags = (flags - RxFlags::L4_CHECKSUM_GOOD) | RxFlags::TRUNCATED;
        }
        let received = Received {
            // Fits: a slot of the inbox is shorter.
            length: frame.len() as u32,
            flags,
            vlan_tci,
            hash,
        };
        self.inbox.pop();
        buffer.complete(received, done);
    }
}

impl Arrived {
    /// Returns the tag control information of its tag, if it had one.
    fn tag(&self) -> Option<u16> {
        self.flags.contains(RxFlags::VLAN).then_some(self.vlan_tci)
    }

    /// Returns its metadata for the guest.
    fn about(&self, destination: Destination) -> About {
        let flags = match self.good {
            true => rx_flags::with_good_transport_checksum(self.flags),
            false => self.flags,
        };
        About {
            flags: flags | destination.flags,
            vlan_tci: self.vlan_tci,
            hash: destination.hash,
        }
    }
}

/// Does what `VIRTIO_NET_HDR_F_NEEDS_CSUM` asks for (virtio 1.2, 5.1.6.4.1): the packet comes
/// from this machine, which left its checksum to the receiver. A guest that forwards the packet
/// needs it in place, so it is not enough to report it as right. Returns whether a checksum was
/// written.
fn complete_checksum(arrived: &mut Arrived, frame: &mut [u8]) -> bool {
    let Some(PartialChecksum { start, offset }) = arrived.open.take() else {
        return false;
    };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > frame.len() {
        return false;
    }
    let sum = checksum::of(&frame[start..]);
    frame[field..field + 2].copy_from_slice(&sum);
    arrived.good = true;
    true
}
