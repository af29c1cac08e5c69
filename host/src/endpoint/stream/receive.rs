//! Receives from a stream into guest memory.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::StreamQueue;
use super::inbox::TooLong;
use super::link::CLOSED;
use crate::endpoint::packet::RxFlags;
use crate::endpoint::queue::{QueueIo, RECEIVE_BUDGET};
use crate::endpoint::rx_queue::Received;
use crate::memory::Span;

impl StreamQueue {
    /// Fills posted buffers until frames, buffers or the budget run out; returns true if it was the
    /// budget. A frame without a buffer waits, and those after it stay in the socket.
    pub(super) fn take_in(&mut self, io: &mut QueueIo<'_>) -> bool {
        for _ in 0..RECEIVE_BUDGET {
            if !self.next_frame() || !self.deliver(io) {
                return false;
            }
        }
        true
    }

    /// Reads until a frame is complete. Returns whether one is.
    fn next_frame(&mut self) -> bool {
        loop {
            match self.inbox.look(&mut self.counters.receive.errors) {
                Ok(true) => return true,
                Ok(false) if self.fetch() => {}
                Ok(false) => return false,
                Err(TooLong(length)) => {
                    self.counters.receive.errors += 1;
                    self.lose(&format!(
                        "it sends a frame of {length} bytes: it does not speak as QEMU's `-netdev \
                         stream` does"
                    ));
                    return false;
                }
            }
        }
    }

    /// Reads more. Returns whether there was any.
    fn fetch(&mut self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let read = recv(socket, self.inbox.room(), RecvFlags::DONTWAIT);
        match read {
            Ok((0, _)) => self.lose(CLOSED),
            Ok((count, _)) => {
                self.inbox.fill(count);
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {}
            Err(error) => {
                self.counters.receive.errors += 1;
                self.lose(&error.to_string());
            }
        }
        false
    }

    /// Writes the next frame to the first buffer in guest memory, unless the policy refuses it.
    /// Returns whether there was a frame.
    fn deliver(&mut self, io: &mut QueueIo<'_>) -> bool {
        let Some((arrived, frame)) = self.inbox.front() else {
            return false;
        };
        if let Some(policy) = io.policy {
            let tag = arrived.flags.contains(RxFlags::VLAN);
            let tag = tag.then_some(arrived.vlan_tci);
            if let Err(refused) = policy.check_received(frame, tag) {
                self.counters.refused.count(refused);
                self.inbox.pop();
                return true;
            }
        }
        let destination = self.route.look(frame, arrived.layout.as_ref());
        let counters = &mut self.counters.receive;
        while let Some(buffer) = io.rx.front() {
            let truncated = frame.len() as u64 > buffer.capacity();
            if Span::new(buffer.segments())
                .write(io.memory, frame)
                .is_err()
            {
                counters.memory_faults += 1;
                buffer.complete(Received::FAULT, io.done);
                continue;
            }
            counters.count(frame.len() as u64, truncated);
            let mut flags = arrived.flags | destination.flags;
            flags.set(RxFlags::TRUNCATED, truncated);
            let received = Received {
                // Fits: it is no longer than `MAX_FRAME`.
                length: frame.len() as u32,
                flags,
                vlan_tci: arrived.vlan_tci,
                hash: destination.hash,
            };
            buffer.complete(received, io.done);
            self.inbox.pop();
            return true;
        }
        false
    }
}
