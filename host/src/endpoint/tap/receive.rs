//! From a TAP to guest memory.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::inbox::Arrived;
use super::{InterfaceState, Tap};
use crate::endpoint::vnet::PartialChecksum;
use crate::endpoint::{
    Completions, PortIo, Posted, RECEIVE_BUDGET, Received, RxFlags, checksum, rx_flags,
};
use crate::memory::{GuestMemory, Span};

impl Tap {
    /// Fills posted buffers until packets, buffers or the budget run out;
    /// returns true if it was the budget. What has no buffer stays in the
    /// interface's queue, where the kernel's own limits hold: no more frames
    /// are read than there are buffers.
    pub(super) fn drain(&mut self, io: &mut PortIo<'_>) -> bool {
        let mut dry = false;
        for used in 0..RECEIVE_BUDGET {
            let most = io.rx.len().min(RECEIVE_BUDGET - used);
            let Some(buffer) = io.rx.front() else {
                return false;
            };
            if self.inbox.is_empty() && !dry {
                dry = self.fetch(most);
            }
            if self.inbox.is_empty() {
                return false;
            }
            self.deliver(io.memory, buffer, io.done);
        }
        true
    }

    /// Reads frames. True if no more wait: one that comes later is an edge for
    /// whoever polls.
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

    /// Writes the next frame to a buffer. If that is not memory, the buffer is
    /// of no use, but the frame waits for the next one.
    fn deliver(&mut self, memory: &GuestMemory, buffer: Posted<'_>, done: &mut Completions) {
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
        let flags = match arrived.flags {
            flags if truncated => flags | RxFlags::TRUNCATED,
            flags if arrived.good => rx_flags::with_good_transport_checksum(flags),
            flags => flags,
        };
        let received = Received {
            // Fits: a slot of the inbox is shorter.
            length: frame.len() as u32,
            flags,
            vlan_tci: arrived.vlan_tci,
        };
        self.inbox.pop();
        buffer.complete(received, done);
    }
}

/// Does what `VIRTIO_NET_HDR_F_NEEDS_CSUM` asks for (virtio 1.2, 5.1.6.4.1):
/// the packet comes from this machine, which left its checksum to us. Whoever
/// passes the packet on needs it in place, so it is not enough to say that it
/// is right. Returns whether a checksum was written.
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
