//! A device under test and the world around it.

use alloc::string::String;
use alloc::vec::Vec;

use device_kit::platform::{LinkStatistics, Offloads, RxFlags, Steering, TxStatus};

/// Guest memory of a bench: this many bytes at guest address 0.
pub const MEMORY_SIZE: u64 = 16 << 20;

/// A packet that the device transmitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmitted {
    /// The frame, gathered from guest memory when it was handed over.
    pub frame: Vec<u8>,
    /// Number of segments it came in.
    pub segments: u16,
    /// What the endpoint was asked to do.
    pub offloads: Offloads,
    /// Offset of the transport header, 0 if the driver did not say.
    pub l4_offset: u16,
    /// Payload bytes a segment, for segmentation.
    pub segment_size: u16,
    /// Tag to insert.
    pub vlan_tci: u16,
}

/// A device that was made for one test: configured with ports, bus master
/// on, memory space on, at power-on otherwise.
///
/// Port n has the MAC address `02:00:00:00:00:0n`, an MTU of 1500, a speed of
/// 10000 Mbit/s, and its link up. Whatever cannot be done (a trap of the
/// component, say) panics with the reason: it fails the requirement.
pub trait Bench {
    /// Reads 1, 2, 4 or 8 bytes of BAR 0.
    fn read_register(&mut self, offset: u64, width: u8) -> u64;

    /// Writes 1, 2, 4 or 8 bytes of BAR 0, and lets the device go on until it
    /// has no work left.
    fn write_register(&mut self, offset: u64, width: u8, value: u64);

    /// Copies from guest memory; the range is inside it.
    fn read_memory(&mut self, address: u64, data: &mut [u8]);

    /// Copies to guest memory; the range is inside it.
    fn write_memory(&mut self, address: u64, data: &[u8]);

    /// Returns the MSI-X vectors raised since the last call, in order.
    fn take_interrupts(&mut self) -> Vec<u16>;

    /// Returns the packets transmitted on a port since the last call, in order.
    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted>;

    /// How the next transmits on a port end, in order; those after them are
    /// `Sent`. A packet that is `Pending` waits for
    /// [`finish_transmit`](Self::finish_transmit).
    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]);

    /// Ends the oldest pending transmits of a port, in one call.
    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]);

    /// Frames arrive at a port, in one batch: each is written to the buffer
    /// at the front, as much as fits, and the device is told. `flags` come on
    /// top of what the bench finds itself (`TRUNCATED`, `MEMORY_FAULT`). An
    /// 802.1Q tag is taken out first, as [`untag`] does it, and `VLAN` set.
    /// Returns how many found a buffer.
    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize;

    /// Returns the number of receive buffers that the device has posted and not got back.
    fn posted_buffers(&mut self, port: u32) -> usize;

    /// The most receive buffers that a port takes from now on.
    fn limit_buffers(&mut self, port: u32, most: usize);

    /// Returns the number of pending transmits of a port that were not finished or
    /// cancelled.
    fn pending_transmits(&mut self, port: u32) -> usize;

    /// A port's link goes up or down.
    fn set_link(&mut self, port: u32, up: bool);

    /// Has the methods about a port be about this queue of it from now on; about
    /// the first one before.
    fn on_queue(&mut self, queue: u32) {
        assert_eq!(queue, 0, "the ports of this bench have one queue");
    }

    /// Returns how the device asked for a port's packets to find their queue, the last
    /// time. None if it did not, or the host does not offer to.
    fn steering(&mut self, _port: u32) -> Option<Steering> {
        None
    }

    /// Returns what the device asked a port to be limited to, in Mbit/s.
    fn rate_limit(&mut self, _port: u32) -> Option<u32> {
        None
    }

    /// Has a port's link have counted this much.
    fn count_link(&mut self, port: u32, _counted: LinkStatistics) {
        panic!("the host of this bench does not count what passes port {port}");
    }

    /// The VMM resets the device.
    fn reset(&mut self);

    /// Returns the device's own state, as JSON text.
    fn inspect(&mut self) -> String;
}

/// Makes a bench with this many ports, for one test.
pub trait Workshop {
    /// The kind of bench.
    type Bench: Bench;

    /// Returns a new device in a new world.
    fn bench(&self, ports: u32) -> Self::Bench;
}

/// Queue pairs of each port of a bench that has several.
pub const QUEUES: u16 = 64;

/// Returns the hash that a bench says a frame has, if the frame's flags say that it
/// has one: no two numbered frames have the same.
pub fn hash_of(frame: &[u8]) -> u32 {
    let bytes = frame.iter().skip(14).take(4);
    bytes.fold(0x9e37_79b9, |hash, byte| {
        hash.rotate_left(8) ^ u32::from(*byte)
    })
}

/// Returns a frame without its 802.1Q tag, and what the tag said.
pub fn untag(frame: &[u8]) -> (Vec<u8>, Option<u16>) {
    match frame {
        [addresses @ .., _, _, _, _] if addresses.len() >= 12 && frame[12..14] == [0x81, 0] => {
            let tci = u16::from_be_bytes([frame[14], frame[15]]);
            ([&frame[..12], &frame[16..]].concat(), Some(tci))
        }
        _ => (frame.to_vec(), None),
    }
}
