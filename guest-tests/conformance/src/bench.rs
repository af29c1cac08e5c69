//! A device under test and the world around it.

use alloc::string::String;
use alloc::vec::Vec;

use device_kit::platform::{LinkStatistics, RxFlags, TxStatus};
pub use manatee_world::contract::Steering;
pub use manatee_world::{MEMORY_SIZE, Transmitted, hash_of, untag};

/// Queue pairs of each port of a bench that has several.
pub const QUEUES: u16 = 64;

/// A device that was made for one test: configured with ports, bus master
/// on, memory space on, at power-on otherwise.
///
/// Port n has the MAC address `02:00:00:00:00:0n`, an MTU of 1500, a speed of
/// 10000 Mbit/s, and its link up. Whatever cannot be done (a trap of the
/// component, say) panics with the reason: it fails the requirement.
pub trait Bench {
    /// Reads 1, 2, 4 or 8 bytes of BAR 0.
    fn read_register(&mut self, offset: u64, width: u8) -> u64;

    /// Writes 1, 2, 4 or 8 bytes of BAR 0, and lets the device continue until it
    /// has no work left.
    fn write_register(&mut self, offset: u64, width: u8, value: u64);

    /// Copies from guest memory; the range is inside it. The guest reaches all of it,
    /// whatever was taken away from the device.
    fn read_memory(&mut self, address: u64, data: &mut [u8]);

    /// Copies to guest memory; the range is inside it.
    fn write_memory(&mut self, address: u64, data: &[u8]);

    /// Takes guest memory away from the device, as a VMM does: at least this range, and
    /// the rest of its pages perhaps.
    fn revoke_memory(&mut self, address: u64, length: u64);

    /// Gives the device back all that was taken away.
    fn give_memory_back(&mut self);

    /// Returns the MSI-X vectors raised since the last call, in order.
    fn take_interrupts(&mut self) -> Vec<u16>;

    /// Has the methods about a port be about this queue of it from now on; about the
    /// first one before.
    fn on_queue(&mut self, queue: u32) {
        assert_eq!(queue, 0, "the ports of this bench have one queue");
    }

    /// Returns the packets transmitted on a port since the last call, in order.
    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted>;

    /// Plans how the next transmits on a port end, in order, in place of what was
    /// planned before; those after them are `Sent`. A packet that is `Pending` waits
    /// for [`finish_transmit`](Self::finish_transmit).
    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]);

    /// Ends the oldest pending transmits of a port, in one call.
    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]);

    /// Has frames arrive at a port, in one batch: each is written to the buffer at the
    /// front, as much as fits, and the device is notified. `flags` come on top of what the
    /// bench finds itself (`TRUNCATED`, `MEMORY_FAULT`). An 802.1Q tag is taken out
    /// first, as [`untag`] does it, and `VLAN` set. A frame with a hash has the one that
    /// [`hash_of`] says. Returns how many found a buffer.
    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize;

    /// Returns the number of receive buffers that the device has posted and not got back.
    fn posted_buffers(&mut self, port: u32) -> usize;

    /// Limits the receive buffers that a port takes from now on.
    fn limit_buffers(&mut self, port: u32, most: usize);

    /// Returns the number of pending transmits of a port that were not finished or
    /// cancelled.
    fn pending_transmits(&mut self, port: u32) -> usize;

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

    /// Takes a port's link up or down.
    fn set_link(&mut self, port: u32, up: bool);

    /// Resets the device, as the VMM does.
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
