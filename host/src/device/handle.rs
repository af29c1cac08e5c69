//! A device, as a VMM and an operator use it.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{MAX_RATE_MBPS, RateError, WatchError};
use super::inner::DeviceInner;
use super::poller::Poller;
use super::telemetry::{Telemetry, Totals};
use super::wakes::PendingWakes;
use crate::component::Component;
use crate::contract::Description;
use crate::endpoint::Watcher;
use crate::memory::{GuestFile, GuestMemory, MapError, MemoryRange};
use crate::runtime::{Due, Failure};

/// A running device. Cheap to clone; every clone is the same device, which
/// ends with the last one.
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) shared: Arc<Shared>,
}

/// What all clones of a device share.
#[derive(Debug)]
pub struct Shared {
    pub inner: Mutex<DeviceInner>,
    /// The part that is readable without the lock.
    pub telemetry: Arc<Telemetry>,
    pub wakes: PendingWakes,
    /// When an interrupt that the device delays is due.
    pub interrupts_due: Due,
    /// How many queues each port has; `wakes` counts them all, in order.
    pub queues: Box<[usize]>,
    pub poller: Poller,
    /// Held while the component is being replaced.
    pub swapping: Mutex<()>,
    /// Held while another instance accesses the guest's memory in parallel with the one that
    /// runs: no memory is unmapped then. Taken before `inner`.
    pub rehearsing: Mutex<()>,
    /// Sizes by index; 0 for a BAR that does not exist.
    pub bar_sizes: [u64; 6],
    pub msix_vectors: u16,
}

impl Device {
    /// Returns the component's description.
    pub fn description(&self) -> Arc<Description> {
        self.shared.own().description.clone()
    }

    /// Returns the component that runs.
    pub fn component(&self) -> Component {
        self.shared.own().component().clone()
    }

    /// Returns the size of a BAR in bytes, 0 if there is none with this index.
    pub fn bar_size(&self, bar: u8) -> u64 {
        self.shared
            .bar_sizes
            .get(usize::from(bar))
            .copied()
            .unwrap_or(0)
    }

    /// Returns the number of MSI-X vectors.
    pub fn msix_vectors(&self) -> u16 {
        self.shared.msix_vectors
    }

    /// Reads configuration space; bytes beyond its 4096 read as ones.
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.shared.own().config_read(offset, data);
    }

    /// Writes configuration space.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        self.run(|inner| inner.config_write(offset, data));
    }

    /// Reads a BAR by its index. Reads as ones where there is no register, while memory space is
    /// disabled, and once the component has failed.
    pub fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let mut inner = self.shared.own();
        inner.bar_read(bar, offset, data);
        inner.leave();
    }

    /// Writes a BAR by its index, and does the work that this starts.
    pub fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.run(|inner| inner.bar_write(bar, offset, data));
    }

    /// Raises interrupts as if the device had, for a VMM that tests its interrupt path. Vectors
    /// beyond the table are ignored.
    pub fn raise(&self, vectors: std::ops::Range<u16>) {
        self.shared.own().state().raise_for_vmm(vectors);
    }

    /// Shares guest memory with the device: `size` bytes at guest-physical
    /// `address`, which are those of `file` from the given offset on, or out
    /// of reach if there is no file.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_memory(
        &self,
        address: u64,
        size: u64,
        file: Option<(File, u64)>,
        writable: bool,
    ) -> Result<(), MapError> {
        let file = match file {
            Some((file, offset)) => Some((GuestFile::new(file, address, size)?, offset)),
            None => None,
        };
        self.map_guest_file(address, size, file, writable)
    }

    /// Shares guest memory as [`map_memory`](Self::map_memory) does, from a file that was checked.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_guest_file(
        &self,
        address: u64,
        size: u64,
        file: Option<(GuestFile, u64)>,
        writable: bool,
    ) -> Result<(), MapError> {
        let mut inner = self.shared.own();
        let memory = &mut inner.state().memory;
        match file {
            Some((file, offset)) => memory.map_file(address, size, file, offset, writable)?,
            None => memory.map_unreachable(address, size)?,
        }
        if let Some(live) = &inner.live
            && let Some((region, file)) = inner.state_ref().memory.shared_at(address)
        {
            live.map(&region, file, true);
        }
        inner.memory_came(size);
        inner.settle();
        Ok(())
    }

    /// Shares guest memory that the caller has mapped itself.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn map_memory_range(
        &self,
        address: u64,
        range: Arc<dyn MemoryRange>,
        writable: bool,
    ) -> Result<(), MapError> {
        let mut inner = self.shared.own();
        let size = range.len() as u64;
        let memory = &mut inner.state().memory;
        memory.map_range(address, range, writable)?;
        inner.memory_came(size);
        inner.settle();
        Ok(())
    }

    /// Unmaps all regions of guest memory in a range, which must contain each as a whole. Queues
    /// of the device in them stop working. Waits for a rehearsal in progress.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing changes.
    pub fn unmap_memory(&self, address: u64, size: u64) -> Result<(), MapError> {
        self.take_away(|memory| memory.unmap(address, size))
    }

    fn take_away(
        &self,
        unmap: impl FnOnce(&mut GuestMemory) -> Result<Vec<Range<u64>>, MapError>,
    ) -> Result<(), MapError> {
        let _no_rehearsal = self.shared.rehearsing.lock();
        let mut inner = self.shared.own();
        let gone = unmap(&mut inner.state().memory)?;
        let taken = inner.memory_went(&gone);
        inner.forget_regions(&gone);
        inner.leave();
        // The thread waits for it to come back for a bounded time.
        self.shared.poller.kick();
        taken.map_err(|error| MapError::InReach(error.to_string()))
    }

    /// Takes back all guest memory, as [`unmap_memory`](Self::unmap_memory) does.
    ///
    /// # Errors
    ///
    /// The same as for [`unmap_memory`](Self::unmap_memory).
    pub fn unmap_all_memory(&self) -> Result<(), MapError> {
        self.take_away(|memory| Ok(memory.clear()))
    }

    /// Resets the function, as the VMM's reset line does. A component that
    /// has failed is replaced by a fresh instance.
    pub fn reset(&self) {
        self.run(DeviceInner::reset);
    }

    /// Resets the function and unmaps all guest memory, because the VMM is gone. Waits for a
    /// rehearsal in progress.
    pub fn detach(&self) {
        let _no_rehearsal = self.shared.rehearsing.lock();
        self.run(|inner| {
            inner.reset();
            let gone = inner.state().memory.clear();
            inner.forget_regions(&gone);
            // The component is not notified: the owner of the memory is gone.
            let _ = inner.memory_went(&gone);
            inner.state().absence.waiting = false;
        });
        self.shared.telemetry.detached();
    }

    /// Notes that a VMM attached, for [`Totals`] and events; [`detach`](Self::detach) ends that.
    pub fn attach(&self) {
        self.shared.telemetry.attached();
    }

    /// Notifies the device that a port's link went up or down.
    pub fn set_link(&self, port: u32, up: bool) {
        self.run(|inner| inner.link_changed(port, up));
    }

    /// Attaches a watcher to a port, which sees every packet from the next one on.
    ///
    /// # Errors
    ///
    /// [`WatchError`]; nothing changes.
    pub fn watch(&self, port: u32, watcher: &Arc<dyn Watcher>) -> Result<(), WatchError> {
        let mut inner = self.shared.own();
        let ports = &mut inner.state().ports;
        let ports_given = ports.len();
        let found = ports.get_mut(port as usize).ok_or(WatchError::NoPort {
            port,
            ports: ports_given,
        });
        let begun = found.map(|found| found.watch(watcher));
        inner.leave();
        begun?.then_some(()).ok_or(WatchError::Watched { port })
    }

    /// Limits a port's transmit rate in Mbit/s, or removes the limit. It stays until it is set
    /// again, whatever the guest and the component do. Packets are delayed to the rate; those for
    /// which there is no room are dropped and counted as busy.
    ///
    /// # Errors
    ///
    /// [`RateError`]; nothing changes.
    pub fn set_rate(&self, port: u32, mbps: Option<u32>) -> Result<(), RateError> {
        if let Some(wrong) = mbps.filter(|mbps| !(1..=MAX_RATE_MBPS).contains(mbps)) {
            return Err(RateError::OutOfBounds(wrong));
        }
        let ports = self.shared.queues.len();
        if port as usize >= ports {
            return Err(RateError::NoPort { port, ports });
        }
        self.run(|inner| {
            if let Some(port) = inner.state().ports.get_mut(port as usize) {
                port.limit_rate_by_operator(mbps);
            }
        });
        // Packets may have to be delayed now, or no longer.
        self.shared.poller.kick();
        Ok(())
    }

    /// Detaches a port's watcher, after the last packet that it was shown.
    pub fn unwatch(&self, port: u32) {
        let mut inner = self.shared.own();
        if let Some(port) = inner.state().ports.get_mut(port as usize) {
            port.unwatch();
        }
        inner.leave();
    }

    /// Returns whether the device has work left that its own thread is about to do.
    pub fn has_work(&self) -> bool {
        self.shared.own().has_work()
    }

    /// Returns why the component failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.own().failure().cloned()
    }

    /// Returns the live tree, for people and tools: each of [`PARTS`](Self::PARTS).
    pub fn inspect(&self) -> serde_json::Value {
        let parts = Self::PARTS.map(|part| (part.to_owned(), self.inspect_part(part)));
        let parts = parts
            .into_iter()
            .filter_map(|(name, part)| Some((name, part?)));
        serde_json::Value::Object(parts.collect())
    }

    /// The parts of the live tree.
    pub const PARTS: [&str; 6] = ["device", "component", "memory", "pci", "ports", "runtime"];

    /// Returns one of the [`PARTS`](Self::PARTS) of the live tree. `device` is the component's own
    /// state, and waits for the device; no other part does. None if there is no such part.
    pub fn inspect_part(&self, part: &str) -> Option<serde_json::Value> {
        if part != "device" {
            return self.shared.telemetry.inspect(part);
        }
        let mut inner = self.shared.own();
        let inspection = inner.inspect();
        inner.leave();
        Some(inspection.finish())
    }

    /// Returns the device's counters. Never waits for the device.
    pub fn totals(&self) -> Totals {
        self.shared.telemetry.totals()
    }

    /// Runs a closure on the device, and then the work that results.
    pub(super) fn run(&self, act: impl FnOnce(&mut DeviceInner)) {
        let mut inner = self.shared.own();
        act(&mut inner);
        inner.settle();
    }
}
