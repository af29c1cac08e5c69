//! Everything around a device.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::bindings::exports::manatee::device::guest_memory::WindowError;
use crate::bindings::exports::manatee::device::packet_endpoint::TransmitResult;
use crate::bindings::manatee::device::types::{RxBuffer, Segment, TxPacket, TxStatus};
use crate::memory::Memory;
use crate::port::Port;

/// The most lines of the device's log that are kept.
const MAX_LOG: usize = 1000;
/// The most offences that are kept.
const MAX_OFFENCES: usize = 100;
/// The most vectors that are kept until they are taken, so that a device that
/// raises them for ever does not end the tests.
const MAX_KEPT: usize = 1 << 16;

/// The world of one test.
#[derive(Debug)]
pub struct World {
    /// Guest memory.
    pub memory: Memory,
    /// The ports.
    pub ports: Vec<Port>,
    /// How windows are refused.
    pub window_error: WindowError,
    interrupts: Vec<u16>,
    log: Vec<Vec<u8>>,
    offences: Vec<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            memory: Memory::default(),
            ports: Vec::new(),
            window_error: WindowError::Unsupported,
            interrupts: Vec::new(),
            log: Vec::new(),
            offences: Vec::new(),
        }
    }
}

impl World {
    /// Begins anew, with this many ports.
    pub fn start(&mut self, ports: u32) {
        self.memory.clear();
        self.ports.clear();
        self.ports.resize_with(ports as usize, Port::default);
        self.window_error = WindowError::Unsupported;
        self.interrupts.clear();
        self.log.clear();
        self.offences.clear();
    }

    /// The device did what it must not.
    pub fn offend(&mut self, offence: impl Into<String>) {
        if self.offences.len() < MAX_OFFENCES {
            self.offences.push(offence.into());
        }
    }

    /// Returns what the device did that it must not, since the last call.
    pub fn take_offences(&mut self) -> Vec<String> {
        core::mem::take(&mut self.offences)
    }

    /// The device logs a line.
    pub fn log(&mut self, line: Vec<u8>) {
        if self.log.len() < MAX_LOG {
            self.log.push(line);
        }
    }

    /// Returns the lines since the last call.
    pub fn take_log(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.log)
    }

    /// The device raises vectors.
    pub fn raise(&mut self, vectors: &[u16]) {
        for (index, vector) in vectors.iter().enumerate() {
            if vectors[..index].contains(vector) {
                self.offend(format!("raised vector {vector} twice in one call"));
            }
        }
        let room = MAX_KEPT.saturating_sub(self.interrupts.len());
        self.interrupts.extend(vectors.iter().take(room));
    }

    /// Returns the vectors since the last call.
    pub fn take_interrupts(&mut self) -> Vec<u16> {
        core::mem::take(&mut self.interrupts)
    }

    /// Takes packets that the device transmits.
    pub fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        let mut result = TransmitResult {
            statuses: Vec::new(),
            multicast_packets: 0,
            multicast_bytes: 0,
            broadcast_packets: 0,
            broadcast_bytes: 0,
        };
        let Some(wire) = self.ports.get_mut(port as usize).filter(|_| queue == 0) else {
            self.offend(format!(
                "transmitted on port {port}, queue {queue}, which does not exist"
            ));
            return result;
        };
        let Some(outcomes) = wire.transmit(&self.memory, packets, segments) else {
            self.offend("transmitted packets that do not add up to their segments");
            return result;
        };
        let mut first = 0;
        for (packet, (status, frame)) in packets.iter().zip(&outcomes) {
            let begins = segments[first].length;
            first += usize::from(packet.segments);
            if begins >= 6 {
                count_group(&mut result, *status, frame);
            }
        }
        if outcomes.iter().any(|(status, _)| *status != TxStatus::Sent) {
            result.statuses = outcomes.into_iter().map(|(status, _)| status).collect();
        }
        result
    }

    /// Takes buffers that the device posts.
    pub fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        let Some(wire) = self.ports.get_mut(port as usize).filter(|_| queue == 0) else {
            self.offend(format!(
                "posted to port {port}, queue {queue}, which does not exist"
            ));
            return 0;
        };
        let Some(taken) = wire.post(buffers, segments) else {
            self.offend("posted buffers that do not add up to their segments");
            return 0;
        };
        taken
    }
}

/// Counts a packet to a group address, as a host does.
fn count_group(result: &mut TransmitResult, status: TxStatus, frame: &[u8]) {
    let left = matches!(
        status,
        TxStatus::Sent | TxStatus::Pending | TxStatus::Dropped
    );
    let Some((destination, _)) = frame.split_first_chunk::<6>().filter(|_| left) else {
        return;
    };
    let bytes = frame.len() as u64;
    if *destination == [0xff; 6] {
        result.broadcast_packets += 1;
        result.broadcast_bytes += bytes;
    } else if destination[0] & 1 == 1 {
        result.multicast_packets += 1;
        result.multicast_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::bindings::manatee::device::types::Offloads;

    #[test]
    fn offences_are_told_once() {
        let mut world = World::default();
        world.start(1);
        world.raise(&[1, 2, 1]);
        assert_eq!(world.take_interrupts(), [1, 2, 1]);
        assert_eq!(world.post_receive(1, 0, &[], &[]), 0);
        assert_eq!(world.take_offences().len(), 2);
        assert!(world.take_offences().is_empty());
    }

    #[test]
    fn group_packets_are_counted() {
        let mut world = World::default();
        world.start(1);
        world.memory.poke(0, &[0xff; 6]);
        world.memory.poke(64, &[0x01, 0, 0x5e, 0, 0, 1]);
        let packets = vec![
            TxPacket {
                id: 0,
                segments: 1,
                l4_offset: 0,
                segment_size: 0,
                vlan_tci: 0,
                offloads: Offloads::empty(),
            };
            2
        ];
        let segments = [0, 64].map(|address| Segment {
            address,
            length: 60,
        });
        let result = world.transmit(0, 0, &packets, &segments);
        assert!(result.statuses.is_empty());
        assert_eq!((result.broadcast_packets, result.broadcast_bytes), (1, 60));
        assert_eq!((result.multicast_packets, result.multicast_bytes), (1, 60));
    }
}
