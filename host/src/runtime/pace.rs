//! Limits a port's transmit rate.
//!
//! A packet is sent once the time that all earlier ones take at the rate is over. Unused time is
//! kept, but not for long.

use std::time::{Duration, Instant};

use crate::contract::{Offloads, TxPacket};

/// The unused time that is kept: it covers a late wake-up of the thread.
const KEPT: Duration = Duration::from_millis(10);
/// How long delayed packets are gathered, since a wake-up costs more than sending.
const GATHERED: Duration = Duration::from_micros(500);
/// The length of a TCP header with the usual options.
const TCP_HEADER: u64 = 32;

/// A rate.
#[derive(Clone, Debug)]
pub struct Pace {
    mbps: Option<u32>,
    /// When everything that was sent is on the wire.
    over: Instant,
}

impl Pace {
    /// Creates a rate in Mbit/s, or none, from now on.
    pub fn new(mbps: Option<u32>, now: Instant) -> Self {
        Self { mbps, over: now }
    }

    /// Returns the rate.
    pub fn mbps(&self) -> Option<u32> {
        self.mbps
    }

    /// Sends a packet of `length` bytes, if the rate permits it now.
    pub fn send(&mut self, bytes: u64, now: Instant) -> bool {
        let Some(mbps) = self.mbps else {
            return true;
        };
        if self.over > now || mbps == 0 {
            return false;
        }
        if let Some(kept) = now.checked_sub(KEPT) {
            self.over = self.over.max(kept);
        }
        // A packet has up to about 2^17 bytes.
        let nanoseconds = bytes.saturating_mul(8000) / u64::from(mbps);
        self.over += Duration::from_nanos(nanoseconds);
        true
    }

    /// Returns when to try again; None if never.
    pub fn due(&self) -> Option<Instant> {
        (self.mbps != Some(0)).then(|| self.over + GATHERED)
    }
}

/// Returns the bytes that a packet of `length` takes on a wire, with the headers of all its segments.
pub fn wire_bytes(packet: &TxPacket, length: u64) -> u64 {
    if !packet.offloads.contains(Offloads::TCP_SEGMENTATION) || packet.segment_size == 0 {
        return length;
    }
    let header = u64::from(packet.l4_offset) + TCP_HEADER;
    let payload = length.saturating_sub(header);
    let segments = payload.div_ceil(packet.segment_size.into());
    length + segments.saturating_sub(1) * header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends packets of these lengths in turn, as fast as permitted, checking at an interval. Returns
    /// the Mbit/s that were sent in the time.
    fn rate(pace: &mut Pace, lengths: &[u64], every: Duration, time: Duration) -> f64 {
        let begun = Instant::now();
        *pace = Pace::new(pace.mbps, begun);
        let (mut now, mut sent) = (begun, 0);
        let mut lengths = lengths.iter().cycle();
        let mut next = *lengths.next().unwrap();
        while now < begun + time {
            while pace.send(next, now) {
                sent += next;
                next = *lengths.next().unwrap();
            }
            now += every;
        }
        sent as f64 * 8.0 / time.as_micros() as f64
    }

    #[test]
    fn what_leaves_is_the_rate_however_often_anybody_looks() {
        for mbps in [100, 1000, 25_000] {
            for every in [1, 100, 3000, 9000] {
                let mut pace = Pace::new(Some(mbps), Instant::now());
                let every = Duration::from_micros(every);
                let rate = rate(
                    &mut pace,
                    &[60, 1514, 65_000],
                    every,
                    Duration::from_secs(2),
                );
                let off = rate / f64::from(mbps) - 1.0;
                assert!(off.abs() < 0.05, "{rate} of {mbps}, every {every:?}");
            }
        }
    }

    #[test]
    fn time_that_was_not_used_is_not_kept_for_long() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(100), begun);
        let later = begun + Duration::from_secs(60);
        let mut sent = 0;
        while pace.send(1250, later) {
            sent += 1;
        }
        // 10 ms of unused time, and the packet that exceeds it.
        assert_eq!(sent, 101);
    }

    #[test]
    fn no_rate_lets_all_leave_and_zero_none() {
        let now = Instant::now();
        let mut free = Pace::new(None, now);
        assert!((0..1000).all(|_| free.send(1 << 20, now)));
        let mut shut = Pace::new(Some(0), now);
        assert!(!shut.send(60, now + Duration::from_secs(9)));
        assert_eq!(shut.due(), None);
        let mut slow = Pace::new(Some(1), now);
        assert!(slow.send(u64::MAX, now));
        assert!(!slow.send(60, now + Duration::from_secs(9)));
    }

    #[test]
    fn segments_count_with_their_headers() {
        let packet = |offloads, segment_size| TxPacket {
            id: 0,
            segments: 1,
            l4_offset: 34,
            segment_size,
            vlan_tci: 0,
            offloads,
        };
        let cut = Offloads::TCP_SEGMENTATION;
        assert_eq!(wire_bytes(&packet(cut, 1000), 66 + 2500), 3 * 66 + 2500);
        assert_eq!(wire_bytes(&packet(cut, 1000), 10), 10);
        assert_eq!(wire_bytes(&packet(cut, 0), 1500), 1500);
        assert_eq!(wire_bytes(&packet(Offloads::empty(), 1000), 1500), 1500);
    }
}
