//! A device under test and the world around it.

use alloc::string::String;
use alloc::vec::Vec;

use device_kit::platform::{LinkStatistics, RxFlags, TxStatus};
pub use manatee_world::contract::Steering;
pub use manatee_world::{MEMORY_SIZE, Transmitted, hash_of, untag};

/// Queue pairs of each port of a bench that has several.
pub const QUEUES: u16 = 64;

/// A device that was made for one test: configured with ports, with bus mastering and
/// memory space enabled, and otherwise at power-on.
///
/// Port n has the MAC address `02:00:00:00:00:0n`, an MTU of 1500, a speed of 10000
/// Mbit/s, and its link up. A call that fails, for example because the component traps,
/// panics with the reason, which fails the requirement.
pub trait Bench {
    /// Reads 1, 2, 4 or 8 bytes of BAR 0.
    fn read_register(&mut self, offset: u64, width: u8) -> u64;

    /// Writes 1, 2, 4 or 8 bytes of BAR 0, and lets the device continue until it
    /// has no work left.
    fn write_register(&mut self, offset: u64, width: u8, value: u64);

    /// Copies from guest memory; the range is inside it. The guest can access all of
    /// it, even what was revoked from the device.
    fn read_memory(&mut self, address: u64, data: &mut [u8]);

    /// Copies to guest memory; the range is inside it.
    fn write_memory(&mut self, address: u64, data: &[u8]);

    /// Revokes guest memory from the device, as a VMM does: at least this range, and
    /// possibly the rest of its pages.
    fn revoke_memory(&mut self, address: u64, length: u64);

    /// Gives the device all revoked memory back.
    fn give_memory_back(&mut self);

    /// Returns the MSI-X vectors raised since the last call, in order.
    fn take_interrupts(&mut self) -> Vec<u16>;

    /// Returns the MSI-X vectors that the device had raised after a delay since the last call,
    /// in order, with the microseconds. None if the host does not offer the feature.
    fn take_delayed(&mut self) -> Vec<(u16, u32)> {
        Vec::new()
    }

    /// Selects the queue of a port that methods about a port refer to from now on. At
    /// first it is queue 0.
    fn on_queue(&mut self, queue: u32) {
        assert_eq!(queue, 0, "the ports of this bench have one queue");
    }

    /// Returns the packets transmitted on a port since the last call, in order.
    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted>;

    /// Plans the statuses of the next transmits on a port, in order, in place of an
    /// earlier plan; later transmits are `Sent`. A packet that is `Pending` waits for
    /// [`finish_transmit`](Self::finish_transmit).
    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]);

    /// Ends the oldest pending transmits of a port, in one call.
    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]);

    /// Has frames arrive at a port, in one batch: each is written to the next buffer, as
    /// much as fits, and the device is notified. `flags` are added to those that the bench
    /// sets itself (`TRUNCATED`, `MEMORY_FAULT`). An 802.1Q tag is removed first, as by
    /// [`untag`], and `VLAN` set. The hash of a frame is that of [`hash_of`]. Returns how
    /// many found a buffer.
    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize;

    /// Returns the number of receive buffers that the bench holds.
    fn posted_buffers(&mut self, port: u32) -> usize;

    /// Limits the receive buffers that a port takes from now on.
    fn limit_buffers(&mut self, port: u32, most: usize);

    /// Returns the number of pending transmits of a port.
    fn pending_transmits(&mut self, port: u32) -> usize;

    /// Returns the last steering that the device set for a port. None if there is none,
    /// or the host does not offer the feature.
    fn steering(&mut self, _port: u32) -> Option<Steering> {
        None
    }

    /// Returns the transmit limit that the device set for a port, in Mbit/s.
    fn rate_limit(&mut self, _port: u32) -> Option<u32> {
        None
    }

    /// Sets the counters of a port's link.
    fn count_link(&mut self, port: u32, _counted: LinkStatistics) {
        panic!("the host of this bench does not count what passes port {port}");
    }

    /// Sets a port's link up or down.
    fn set_link(&mut self, port: u32, up: bool);

    /// Resets the device, as the VMM does.
    fn reset(&mut self);

    /// Returns the device's own state, as JSON text.
    fn inspect(&mut self) -> String;
}

/// A maker of benches, one for each test.
pub trait Workshop {
    /// The kind of bench.
    type Bench: Bench;

    /// Returns a new device in a new world.
    fn bench(&self, ports: u32) -> Self::Bench;
}
