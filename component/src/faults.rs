//! Seeded faults, for a test-only build of the component: the feature `faults`.
//!
//! They are a decorator of the platform, so that the device is the one that ships.
//! Faults happen when packets are handed over, at fixed positions of every send queue,
//! so that a fresh instance which continues there meets the same fault again.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

use device_kit::platform::{
    Delayed, Level, LinkStatistics, MemoryError, Offloads, Platform, RxBuffer, Segment, Steering,
    TransmitResult, TxPacket, TxStatus,
};
use device_kit::window::Window;

/// Bytes of a send queue from one fault to the next.
const DISTANCE: u32 = 1 << 17;

/// A platform with faults.
#[derive(Debug, Default)]
pub struct Faulty<P> {
    platform: P,
    /// Whether the device announces WQEs: its predecessor failed.
    is_cautious: bool,
}

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A trap.
    Trap,
    /// An endless loop.
    Loop,
    /// Memory is allocated until there is no more.
    Grow,
    /// The device's record of its packets is overwritten.
    Corrupt,
    /// A batch for the host contradicts itself.
    Garbage,
}

/// Which instances meet a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// Every instance that works on the WQE.
    Recurring,
    /// Only an instance that is not cautious, so the fault does not recur after a
    /// crash.
    Once,
}

/// The faults in the order in which a queue meets them: all recurring, then all once,
/// and so on.
const FAULTS: [Fault; 5] = [
    Fault::Trap,
    Fault::Loop,
    Fault::Grow,
    Fault::Corrupt,
    Fault::Garbage,
];

/// Returns the fault of the WQE from `position` to `end`. It has one if it contains a
/// multiple of [`DISTANCE`] other than 0.
fn at(position: u32, end: u32) -> Option<(Fault, Flavour)> {
    let number = end.wrapping_sub(1) / DISTANCE;
    if number == 0 || number * DISTANCE < position {
        return None;
    }
    let index = number as usize - 1;
    let flavour = [Flavour::Recurring, Flavour::Once][index % 2];
    Some((FAULTS[index / 2 % FAULTS.len()], flavour))
}

/// Returns where the WQE of a packet begins, as Linux lays it out: a long OOB has
/// 24 bytes, and only a packet with a tag has one (`mana_start_xmit`).
fn position(packet: &TxPacket) -> u32 {
    let head = match packet.offloads.contains(Offloads::INSERT_VLAN) {
        true => 32,
        false => 16,
    };
    let size: u32 = head + 16 * u32::from(packet.segments);
    packet.id.wrapping_sub(size.next_multiple_of(32))
}

impl<P: Platform> Faulty<P> {
    /// Triggers the faults of a batch. Returns how to corrupt it, if it is still handed
    /// over.
    fn meet(&mut self, packets: &[TxPacket]) -> Option<Fault> {
        let is_cautious = core::mem::take(&mut self.is_cautious);
        let mut met = None;
        for packet in packets {
            let begin = position(packet);
            let Some((fault, flavour)) = at(begin, packet.id) else {
                continue;
            };
            if flavour == Flavour::Once && is_cautious {
                continue;
            }
            self.platform.log(
                Level::Warn,
                format_args!("seeded fault {fault:?} {flavour:?} at {begin:#x}"),
            );
            match fault {
                Fault::Trap => trap(),
                Fault::Loop => loop_for_ever(),
                Fault::Grow => grow_for_ever(),
                Fault::Corrupt | Fault::Garbage => met = Some(fault),
            }
        }
        met
    }
}

impl<P> From<P> for Faulty<P> {
    fn from(platform: P) -> Self {
        Self {
            platform,
            is_cautious: false,
        }
    }
}

impl<P> AsMut<P> for Faulty<P> {
    fn as_mut(&mut self) -> &mut P {
        &mut self.platform
    }
}

impl<P: Platform> Platform for Faulty<P> {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.platform.read(address, data)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.platform.write(address, data)
    }

    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        self.platform.map_window(pages, repeats)
    }

    fn unmap_window(&mut self, window: Window) {
        self.platform.unmap_window(window);
    }

    fn raise(&mut self, vectors: &[u16]) {
        self.platform.raise(vectors);
    }

    fn raise_within(&mut self, vectors: &[Delayed]) {
        self.platform.raise_within(vectors);
    }

    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        match self.meet(packets) {
            Some(Fault::Garbage) => {
                let nowhere = Segment {
                    address: u64::MAX,
                    length: u32::MAX,
                };
                let segments = [segments, &[nowhere]].concat();
                self.platform.transmit(port, queue, packets, &segments)
            }
            Some(_) => TransmitResult {
                statuses: vec![TxStatus::Sent; packets.len() + 1],
                ..TransmitResult::default()
            },
            None => self.platform.transmit(port, queue, packets, segments),
        }
    }

    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        self.platform.post_receive(port, queue, buffers, segments)
    }

    fn cancel_receive(&mut self, port: u32, queue: u32) {
        self.platform.cancel_receive(port, queue);
    }

    fn cancel_transmit(&mut self, port: u32, queue: u32) {
        self.platform.cancel_transmit(port, queue);
    }

    fn steer(&mut self, port: u32, steering: &Steering) {
        self.platform.steer(port, steering);
    }

    fn limit_rate(&mut self, port: u32, mbps: Option<u32>) {
        self.platform.limit_rate(port, mbps);
    }

    fn statistics(&mut self, port: u32) -> LinkStatistics {
        self.platform.statistics(port)
    }

    fn changed(&mut self) {
        self.platform.changed();
    }

    fn attempt(&mut self, entry: u64) {
        self.is_cautious = true;
        self.platform.attempt(entry);
    }

    fn log(&mut self, level: Level, message: fmt::Arguments<'_>) {
        self.platform.log(level, message);
    }
}

// Functions of their own, so that a backtrace names them.

#[inline(never)]
fn trap() -> ! {
    panic!("as asked for")
}

#[inline(never)]
fn loop_for_ever() -> ! {
    loop {
        black_box(());
    }
}

#[inline(never)]
fn grow_for_ever() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
        black_box(&hoard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_multiple_is_met_once_whatever_the_wqe_size() {
        let wanted = FAULTS.map(|fault| [(fault, Flavour::Recurring), (fault, Flavour::Once)]);
        for size in [32, 96, 160, 512] {
            let entries = (0..11 * DISTANCE / size).map(|entry| entry * size);
            let met: Vec<_> = entries
                .filter_map(|begin| at(begin, begin + size))
                .collect();
            assert_eq!(met, wanted.as_flattened(), "WQEs of {size} bytes");
        }
    }

    #[test]
    fn a_packet_s_wqe_begins_where_its_driver_wrote_it() {
        let cases = [
            (1, false, 32),
            (2, false, 64),
            (3, false, 64),
            (1, true, 64),
            (2, true, 64),
        ];
        for (segments, has_tag, size) in cases {
            let mut packet = TxPacket::with_offloads(4096, segments, Offloads::empty());
            packet.offloads.set(Offloads::INSERT_VLAN, has_tag);
            assert_eq!(position(&packet), 4096 - size, "{segments} segments");
        }
    }
}
