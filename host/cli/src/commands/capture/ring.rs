//! Captured packets that were not read yet. Their size is bounded: a slow reader loses packets
//! instead of delaying the device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use manatee::endpoint::{Passed, Watcher};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::pcapng::{self, OVERHEAD, Stamp, Statistics};

/// A capture's packets, between the device and the thread that writes them.
#[derive(Debug)]
pub struct Ring {
    /// The most bytes that are kept of a packet.
    packet: usize,
    /// The capacity for waiting packets, in bytes; up to the same amount is being written.
    room: usize,
    begun: Stamp,
    /// Readable when there are packets to write, or the capture has ended.
    news: OwnedFd,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    blocks: Vec<u8>,
    packets: u64,
    dropped: u64,
    /// Dropped packets that no block has reported yet.
    untold: u64,
    over: bool,
}

/// The packets to write.
#[derive(Debug)]
pub struct Chunk {
    pub blocks: Vec<u8>,
    /// The final counters, if these are the last packets.
    pub over: Option<Statistics>,
}

impl Ring {
    /// Creates an empty ring of this many bytes.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn new(snaplen: u32, bytes: u64) -> io::Result<Self> {
        Ok(Self {
            packet: snaplen as usize,
            room: (bytes / 2) as usize,
            begun: Stamp::now(),
            news: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            waiting: Mutex::default(),
        })
    }

    /// Returns the numbers of packets that were captured, and dropped from the capture.
    pub fn counts(&self) -> (u64, u64) {
        let waiting = self.waiting.lock();
        (waiting.packets, waiting.dropped)
    }

    /// Ends the capture: no more packets are added.
    pub fn end(&self) {
        self.waiting.lock().over = true;
        self.tell();
    }

    /// Takes the waiting packets, in exchange for an empty list. Returns that list if there are
    /// none.
    pub fn take(&self, mut empty: Vec<u8>) -> Result<Chunk, Vec<u8>> {
        empty.clear();
        // Reading resets the eventfd; an error means that it was reset already.
        let _ = rustix::io::read(&self.news, &mut [0; 8]);
        let mut waiting = self.waiting.lock();
        if waiting.blocks.is_empty() && !waiting.over {
            return Err(empty);
        }
        let over = waiting.over.then(|| Statistics {
            begun: self.begun,
            ended: Stamp::now(),
            packets: waiting.packets,
            dropped: waiting.dropped,
        });
        Ok(Chunk {
            blocks: std::mem::replace(&mut waiting.blocks, empty),
            over,
        })
    }

    fn tell(&self) {
        // It fails only if the eventfd is signalled already.
        let _ = rustix::io::write(&self.news, &1u64.to_ne_bytes());
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

impl Watcher for Ring {
    fn most(&self) -> usize {
        self.packet
    }

    fn look(&self, packet: &Passed<'_>) {
        let mut waiting = self.waiting.lock();
        if waiting.over {
            return;
        }
        if waiting.blocks.len() + packet.bytes.len() + OVERHEAD > self.room {
            waiting.dropped += 1;
            waiting.untold += 1;
            return;
        }
        let first = waiting.blocks.is_empty();
        let untold = std::mem::take(&mut waiting.untold);
        waiting.packets += 1;
        pcapng::packet(&mut waiting.blocks, packet, Stamp::now(), untold);
        drop(waiting);
        if first {
            self.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use manatee::endpoint::Direction;

    use super::*;

    fn look(ring: &Ring, bytes: &[u8]) {
        ring.look(&Passed {
            direction: Direction::FromGuest,
            queue: 0,
            length: bytes.len() as u32,
            bytes,
        });
    }

    #[test]
    fn a_reader_that_is_slow_loses_packets_and_memory_stays_bounded() {
        let ring = Ring::new(1000, 4096).unwrap();
        assert!(ring.take(Vec::new()).is_err());
        for _ in 0..1000 {
            look(&ring, &[1; 500]);
        }
        let (packets, dropped) = ring.counts();
        assert_eq!(packets + dropped, 1000);
        let chunk = ring.take(Vec::new()).unwrap();
        assert!(chunk.blocks.len() <= 2048 && chunk.over.is_none());
        assert_eq!(packets, 3);
        // While these are written, there is room for as many again.
        look(&ring, &[2; 500]);
        ring.end();
        look(&ring, &[3; 500]);
        let chunk = ring.take(chunk.blocks).unwrap();
        let statistics = chunk.over.unwrap();
        assert_eq!((statistics.packets, statistics.dropped), (4, 997));
        // The packet after the gap reports its size.
        let told = 997u64.to_ne_bytes();
        let mut windows = chunk.blocks.windows(8);
        assert!(windows.any(|window| window == told));
    }
}
