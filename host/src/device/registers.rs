//! Configuration space and the BARs, as a VMM reads and writes them.

use super::inner::DeviceInner;
use crate::contract::RegisterWrite;
use crate::interrupt::Interrupts;
use crate::pci::Function;
use crate::pci::msix::Due;
use crate::runtime::HostState;

impl DeviceInner {
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.state_ref().function.config_read(offset, data);
    }

    pub fn config_write(&mut self, offset: u64, data: &[u8]) {
        if Function::initiates_reset(offset, data) {
            self.reset();
            return self.note_executed();
        }
        let state = self.state();
        state.stale = true;
        // A mask holds back nothing that was raised before it.
        state.hurry();
        let was_master = state.function.bus_master();
        let due = state.function.config_write(offset, data);
        self.mastering_changed(was_master, due);
        self.note_executed();
    }

    /// Handles a change of bus mastering, if there was one, and delivers interrupts that it
    /// releases.
    pub(super) fn mastering_changed(&mut self, was_master: bool, due: Vec<Due>) {
        let state = self.state();
        deliver_interrupts(state, due);
        if was_master == state.function.bus_master() {
            return;
        }
        self.show_windows();
        if !was_master {
            if self.recovers_with_memory {
                self.recover();
            }
            self.wake_all();
            self.ring_held();
        }
    }

    /// Keeps a write for the device's own thread, if it is to a doorbell. Returns whether
    /// it is.
    pub(super) fn hold_doorbell(&mut self, bar: u8, offset: u64, data: &[u8]) -> bool {
        let function = &self.state_ref().function;
        let is_whole = offset.is_multiple_of(8) && fits(function.bar_size(bar), offset, 8);
        let Ok(value) = <[u8; 8]>::try_from(data) else {
            return false;
        };
        if !is_whole || !function.memory_enabled() || bar == function.msix_bar() {
            return false;
        }
        let value = u64::from_le_bytes(value);
        if !self.held.note(bar, offset, 8, value) {
            return false;
        }
        self.recoverer.doorbells.note(bar, offset, 8, value);
        self.ring_late = true;
        true
    }

    /// Handles that bus mastering is on again: packets may be waiting, and doorbells that rang
    /// meanwhile.
    pub(super) fn ring_held(&mut self) {
        self.ring_late = false;
        let held = self.held.writes();
        self.held.clear();
        for write in held {
            if let Some(instance) = self.instance()
                && let Ok(left) = instance.write_register(write.bar, write.offset, 8, write.value)
            {
                self.work_left |= left;
            }
        }
    }

    /// Returns the doorbells that rang and wait.
    pub(super) fn held_doorbells(&self) -> Vec<RegisterWrite> {
        self.held.writes()
    }

    /// Keeps doorbells that rang before, and rings them if the guest has bus mastering on.
    pub(super) fn hold_again(&mut self, writes: &[RegisterWrite]) {
        for write in writes {
            self.recoverer
                .doorbells
                .note(write.bar, write.offset, 8, write.value);
            self.held.note(write.bar, write.offset, 8, write.value);
        }
        if self.state_ref().function.bus_master() {
            self.ring_held();
        }
    }

    pub fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let function = &self.state_ref().function;
        if !function.memory_enabled() || !fits(function.bar_size(bar), offset, data.len()) {
            return;
        }
        if bar == function.msix_bar() {
            return match &self.state_ref().interrupts {
                Interrupts::Vectors(sink) => {
                    function.msix_read_with(offset, data, &|vector| sink.is_pending(vector));
                }
                Interrupts::Messages(_) => function.msix_read(offset, data),
            };
        }
        let Some(instance) = self.instance() else {
            return;
        };
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let width = width(at, rest.len());
            let (now, later) = rest.split_at_mut(width);
            let Ok(value) = instance.read_register(bar, at, width as u8) else {
                break;
            };
            now.copy_from_slice(&value.to_le_bytes()[..width]);
            at += width as u64;
            rest = later;
        }
        self.note_failure();
    }

    /// Writes a BAR. [`settle`](Self::settle) does the work that results, and handles a failure.
    #[inline]
    pub fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let state = self.state();
        let function = &mut state.function;
        if !function.memory_enabled() || !fits(function.bar_size(bar), offset, data.len()) {
            return;
        }
        if bar == function.msix_bar() {
            state.stale = true;
            state.hurry();
            let due = state.function.msix_write(offset, data);
            deliver_interrupts(state, due);
            return self.note_executed();
        }
        if self.state_ref().absence.is_noted() {
            self.stop_waiting();
        }
        if self.ring_late && self.state_ref().function.bus_master() {
            // In the order in which they rang.
            self.ring_held();
        }
        // A doorbell, mostly.
        if let Ok(value) = <[u8; 8]>::try_from(data)
            && offset.is_multiple_of(8)
        {
            self.write_register(bar, offset, 8, u64::from_le_bytes(value));
            return self.note_executed();
        }
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let width = width(at, rest.len());
            let (now, later) = rest.split_at(width);
            let mut value = [0; 8];
            value[..width].copy_from_slice(now);
            if !self.write_register(bar, at, width, u64::from_le_bytes(value)) {
                break;
            }
            at += width as u64;
            rest = later;
        }
        self.note_executed();
    }

    /// Writes a register, or defers a doorbell until the guest enables bus mastering. Returns
    /// whether the component still runs.
    #[inline]
    fn write_register(&mut self, bar: u8, at: u64, width: usize, value: u64) -> bool {
        let rings = self.recoverer.doorbells.note(bar, at, width, value);
        if !self.state_ref().function.bus_master() && self.held.note(bar, at, width, value) {
            return true;
        }
        let Some(instance) = self.instance() else {
            return false;
        };
        let left = instance.write_register(bar, at, width as u8, value);
        self.work_left |= left.as_ref().is_ok_and(|left| *left);
        if !rings && self.live.is_some() {
            // A successor must not find half of what the driver writes in several registers.
            self.state().changed = true;
        }
        left.is_ok()
    }
}

/// Rings the doorbells that were deferred.
fn deliver_interrupts(state: &HostState, due: Vec<Due>) {
    for Due { vector, message } in due {
        match &state.interrupts {
            Interrupts::Vectors(sink) => sink.raise(vector),
            Interrupts::Messages(sink) => sink.send(message),
        }
    }
}

fn fits(size: u64, offset: u64, length: usize) -> bool {
    offset
        .checked_add(length as u64)
        .is_some_and(|end| end <= size)
}

/// Returns the widest access at an offset: a power of two that divides it, at most 8.
fn width(offset: u64, left: usize) -> usize {
    let aligned = 1 << offset.trailing_zeros().min(3);
    let fitting = if left >= 8 { 8 } else { 1 << left.ilog2() };
    aligned.min(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_split_into_aligned_ones() {
        let widths = |offset: u64, length: usize| {
            let (mut at, mut left, mut widths) = (offset, length, vec![]);
            while left > 0 {
                let width = width(at, left);
                widths.push(width);
                at += width as u64;
                left -= width;
            }
            widths
        };
        assert_eq!(widths(0, 8), [8]);
        assert_eq!(widths(4, 8), [4, 4]);
        assert_eq!(widths(1, 8), [1, 2, 4, 1]);
        assert_eq!(widths(8, 3), [2, 1]);
        assert_eq!(widths(0x18, 20), [8, 8, 4]);
    }
}
