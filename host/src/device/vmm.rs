//! A VMM's control of a device, apart from forwarding a guest's accesses.

use super::handle::{Device, Shared};
use super::inner::DeviceInner;
use crate::pci::MsixLayout;

/// The command register, and bits of it.
const COMMAND: u64 = 4;
const MEMORY_SPACE: u8 = 1 << 1;
const BUS_MASTER: u8 = 1 << 2;

impl Device {
    /// Returns the location of the MSI-X table and the pending bits.
    pub fn msix_layout(&self) -> MsixLayout {
        self.shared.own().state_ref().function.msix_layout()
    }

    /// Enables memory space, or disables it, as the guest does in the command register:
    /// for a VMM that emulates that register itself.
    pub fn set_memory_space(&self, enabled: bool) {
        self.set_command(MEMORY_SPACE, enabled);
    }

    /// Enables bus mastering, or disables it, as the guest does in the command register.
    /// Without, the device neither touches guest memory nor sends messages.
    pub fn set_bus_master(&self, enabled: bool) {
        self.set_command(BUS_MASTER, enabled);
    }

    fn set_command(&self, bit: u8, enabled: bool) {
        let mut inner = self.shared.own();
        let mut command = [0; 2];
        inner.config_read(COMMAND, &mut command);
        command[0] = if enabled {
            command[0] | bit
        } else {
            command[0] & !bit
        };
        inner.config_write(COMMAND, &command);
        inner.settle();
    }

    /// Pauses the device: from when this returns until [`resume`](Self::resume), it neither reads
    /// nor writes guest memory, raises no interrupt, and exchanges no packets, which wait in the
    /// guest and the endpoint. Pausing a paused device has no effect.
    ///
    /// A VMM that pauses its virtual CPUs first has an idle device. Doorbells that still ring are
    /// kept, and ring when the device is resumed; other registers can be read and written, and a
    /// request to the device that needs guest memory fails. [`save`](Self::save) and
    /// [`swap`](Self::swap) work as usual. A reset does not resume.
    pub fn pause(&self) {
        self.run(|inner| {
            // Report completed packets now, while guest memory is in reach.
            inner.deliver_all();
            inner.set_paused(true);
        });
    }

    /// Resumes a device that was paused; one that was not stays as it is.
    pub fn resume(&self) {
        self.run(|inner| inner.set_paused(false));
    }

    /// Returns whether the device is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.own().state_ref().function.is_paused()
    }

    /// Writes a BAR as [`bar_write`](Self::bar_write) does, but leaves the work to the device's own
    /// thread if it is a doorbell, so that a virtual CPU does not wait. Doorbells of one queue that
    /// ring before the thread runs are merged; other registers are written at once.
    pub fn bar_write_later(&self, bar: u8, offset: u64, data: &[u8]) {
        let mut inner = self.shared.own();
        if inner.hold_doorbell(bar, offset, data) {
            inner.leave();
            self.shared.poller.kick();
        } else {
            inner.bar_write(bar, offset, data);
            inner.settle();
        }
    }

    /// Has the device check a queue of a port for packets, for an endpoint without a descriptor
    /// that shows its readiness. A queue that does not exist is ignored. May be called from
    /// anywhere, also from inside an endpoint.
    pub fn wake(&self, port: usize, queue: usize) {
        let Shared { queues, wakes, .. } = &*self.shared;
        if queues.get(port).is_some_and(|count| queue < *count) {
            let before: usize = queues[..port].iter().sum();
            wakes.add(before + queue);
            self.shared.go_on();
        }
    }
}

impl DeviceInner {
    pub(super) fn set_paused(&mut self, paused: bool) {
        let state = self.state();
        let was_master = state.function.bus_master();
        state.stale = true;
        let due = state.function.set_paused(paused);
        self.mastering_changed(was_master, due);
    }
}
