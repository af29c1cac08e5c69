//! From a TAP to guest memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::untag::untag;
use super::{Link, Tap};
use crate::endpoint::headers::TAG_BYTES;
use crate::endpoint::rx_flags::{self, LOOK_BYTES};
use crate::endpoint::vnet::{PartialChecksum, VNET_HEADER_BYTES, VnetHeader};
use crate::endpoint::{PortIo, Posted, RECEIVE_BUDGET, Received, RxFlags, checksum};
use crate::memory::{GuestMemory, Segment, Span};

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Next {
    /// A buffer was used up; there may be another packet.
    Go,
    /// There is no packet, no buffer, or no interface.
    Stop,
}

impl Tap {
    /// Fills posted buffers until packets, buffers or the budget run out;
    /// returns true if it was the budget. What has no buffer stays in the
    /// interface's queue, where the kernel's own limits hold.
    pub(super) fn drain(&mut self, io: &mut PortIo<'_>) -> bool {
        (0..RECEIVE_BUDGET).all(|_| self.receive_one(io) == Next::Go)
    }

    fn receive_one(&mut self, io: &mut PortIo<'_>) -> Next {
        let Some(buffer) = io.rx.front() else {
            return Next::Stop;
        };
        let mut header = [0; VNET_HEADER_BYTES];
        let read = self.read(&mut header, io.memory, &buffer);
        match read {
            Ok(bytes) => {
                let Some(length) = bytes.checked_sub(VNET_HEADER_BYTES) else {
                    return self.stopped(&io::ErrorKind::UnexpectedEof.into());
                };
                self.note(Link::Up);
                let vnet = VnetHeader::received(&header);
                let received = self.finish(vnet, length as u64, io.memory, &buffer);
                buffer.complete(received, io.done);
                Next::Go
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::FAULT) => {
                self.counters.receive.memory_faults += 1;
                buffer.complete(Received::FAULT, io.done);
                Next::Go
            }
            Err(error) => self.stopped(&error),
        }
    }

    /// Reads a packet into a buffer; `EFAULT` if the buffer is not memory.
    fn read(
        &mut self,
        header: &mut [u8; VNET_HEADER_BYTES],
        memory: &GuestMemory,
        buffer: &Posted<'_>,
    ) -> io::Result<usize> {
        let ranges = &mut self.ranges;
        match ranges.scatter(header, memory, buffer.segments(), &mut self.tail) {
            Ok(mut ranges) => ranges.read_from(self.fd.as_fd()),
            // The buffer is of no use, but no packet need go with it: that
            // waits in the interface's queue for the next one.
            Err(_) if is_readable(self.fd.as_fd()) => Err(Errno::FAULT.into()),
            Err(_) => Err(Errno::AGAIN.into()),
        }
    }

    /// Counts a packet that lies in its buffer, takes its tag out, completes
    /// its checksum, and says what is known of it.
    pub(super) fn finish(
        &mut self,
        vnet: VnetHeader,
        length: u64,
        memory: &GuestMemory,
        buffer: &Posted<'_>,
    ) -> Received {
        let (tail, scratch) = (&self.tail, &mut self.untagging);
        let Ok(tag) = untag(memory, buffer.segments(), length, tail, scratch) else {
            return Received::FAULT;
        };
        let taken = if tag.is_some() { TAG_BYTES as u16 } else { 0 };
        let length = length - u64::from(taken);
        let partial = vnet.partial.map(|partial| PartialChecksum {
            start: partial.start.saturating_sub(taken),
            ..partial
        });
        let vnet = VnetHeader { partial, ..vnet };
        let mut flags = self.flags(&vnet, length, memory, buffer);
        if tag.is_some() {
            flags |= RxFlags::VLAN;
        }
        // Fits: it is at most what one `readv` returned, less than 2 GiB.
        Received {
            length: length as u32,
            flags,
            vlan_tci: tag.unwrap_or(0),
        }
    }

    fn flags(
        &mut self,
        vnet: &VnetHeader,
        length: u64,
        memory: &GuestMemory,
        buffer: &Posted<'_>,
    ) -> RxFlags {
        let frame = || Span::new(buffer.segments()).limit(length);
        let mut look = [0; LOOK_BYTES];
        let Ok(seen) = frame().read(memory, &mut look) else {
            return RxFlags::MEMORY_FAULT;
        };
        let mut flags = rx_flags::classify(&look[..seen]);
        let truncated = length > buffer.capacity();
        self.counters.receive.count(length, truncated);
        if truncated {
            return flags | RxFlags::TRUNCATED;
        }
        let good = match vnet.partial {
            Some(partial) => {
                let done = complete_checksum(memory, frame(), length, partial);
                self.counters.receive.checksums_completed += u64::from(done);
                done
            }
            None => vnet.data_valid,
        };
        if good {
            flags = rx_flags::with_good_transport_checksum(flags);
        }
        flags
    }

    fn stopped(&mut self, error: &io::Error) -> Next {
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN | Errno::INTR) => {}
            Some(Errno::BADFD) => self.note(Link::Gone),
            _ => {
                self.counters.receive.errors += 1;
                tracing::debug!(interface = self.name, %error, "no packet was received");
            }
        }
        Next::Stop
    }
}

/// Does what `VIRTIO_NET_HDR_F_NEEDS_CSUM` asks for (virtio 1.2, 5.1.6.4.1):
/// the packet comes from this machine, which left its checksum to us. Whoever
/// passes the packet on needs it in place, so it is not enough to say that it
/// is right. Returns whether the packet has a checksum now.
fn complete_checksum<I: Iterator<Item = Segment> + Clone>(
    memory: &GuestMemory,
    frame: Span<I>,
    length: u64,
    partial: PartialChecksum,
) -> bool {
    let start = u64::from(partial.start);
    let field = start + u64::from(partial.offset);
    if field + 2 > length {
        return false;
    }
    checksum::of_guest_memory(memory, frame.clone().advance(start))
        .and_then(|sum| frame.advance(field).write(memory, &sum))
        .is_ok()
}

/// Whether a packet waits. Only asked when a buffer turned out to be bad.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec::default();
    matches!(poll(&mut set, Some(&now)), Ok(ready) if ready > 0)
}
