//! A device: an instance of a component with its PCI function, guest memory
//! and endpoints, behind one lock.
//!
//! Whoever holds the lock owns the device: the VMM's thread for register
//! accesses and memory changes, the device's own thread for packets that
//! arrive, unless the VMM's is at it anyway. Each runs the device until it has
//! nothing left to do.

mod body;
mod builder;
mod doorbells;
mod inspect;
mod life;
mod owner;
mod poller;
mod recovery;
mod rehearsal;
mod report;
mod snapshot;
mod swap;
mod sync;
mod telemetry;
mod vmm;
mod wakes;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::component::{Component, ComponentError};
use crate::contract::{ConfigureError, Description};
use crate::interrupt::Interrupts;
use crate::memory::{GuestFile, GuestMemory, MapError, MemoryRange};
pub use crate::runtime::{Failure, InvalidPort, Limits, Port};
use body::Body;
pub use builder::DeviceBuilder;
use poller::Poller;
pub use recovery::CrashPolicy;
pub use rehearsal::Rehearsal;
pub use report::{Event, Recovery, Swap};
pub use snapshot::RestoreError;
pub use swap::{SwapError, SwapOptions};
use telemetry::Telemetry;
pub use telemetry::{Condition, PortTotals, Totals};
use wakes::Wakes;

/// Why a device can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The component can't be used.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// It failed while it was set up.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A port is not one that a device can have.
    #[error("port {0}: {1}")]
    Port(usize, InvalidPort),
    /// The component objects to its ports.
    #[error("the component refuses its ports: {0:?}")]
    Refused(ConfigureError),
    /// Fewer than one port or more than the component has.
    #[error("{given} ports were given; this device has 1 to {max}")]
    PortCount {
        /// How many were given.
        given: usize,
        /// The most that it has.
        max: u32,
    },
    /// The thread that waits for packets can't be set up.
    #[error("setting up the device's thread: {0}")]
    Poller(#[from] std::io::Error),
}

/// A running device. Cheap to clone; every clone is the same device, which
/// ends with the last one.
#[derive(Clone, Debug)]
pub struct Device {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    body: Mutex<Body>,
    /// What is known of it without the lock.
    telemetry: Arc<Telemetry>,
    wakes: Wakes,
    /// How many queues each port has; `wakes` counts them all, in order.
    queues: Box<[usize]>,
    poller: Poller,
    /// Held by whoever replaces the component.
    swapping: Mutex<()>,
    /// Held while another instance looks at the guest's memory beside the one
    /// that runs: none of it is taken away then. Taken before `body`.
    rehearsing: Mutex<()>,
    /// By index; 0 where there is none.
    bar_sizes: [u64; 6],
    msix_vectors: u16,
}

impl Device {
    /// Makes a device with the default [`Limits`] and [`CrashPolicy`];
    /// [`builder`](Self::builder) has others.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    pub fn new(
        component: &Component,
        ports: Vec<Port>,
        interrupts: Interrupts,
    ) -> Result<Self, DeviceError> {
        Self::builder(component).ports(ports).build(interrupts)
    }

    /// Begins a device that runs a component.
    pub fn builder(component: &Component) -> DeviceBuilder {
        DeviceBuilder::new(component)
    }

    /// Returns what the component says of itself.
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

    /// Reads configuration space; ones beyond its 4096 bytes.
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.shared.own().config_read(offset, data);
    }

    /// Writes configuration space.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        self.run(|body| body.config_write(offset, data));
    }

    /// Reads a BAR by its index. Reads as ones where there is nothing, while
    /// memory space is disabled, and once the component has failed.
    pub fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let mut body = self.shared.own();
        body.bar_read(bar, offset, data);
        body.leave();
    }

    /// Writes a BAR by its index, and does the work that this starts.
    pub fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.run(|body| body.bar_write(bar, offset, data));
    }

    /// Raises interrupts as if the device did, for a VMM that tries its own ways. Vectors
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

    /// Shares guest memory as [`map_memory`](Self::map_memory) does, of a file that
    /// was checked.
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
        let mut body = self.shared.own();
        let memory = &mut body.state().memory;
        match file {
            Some((file, offset)) => memory.map_file(address, size, file, offset, writable)?,
            None => memory.map_unreachable(address, size)?,
        }
        body.memory_came(size);
        body.settle();
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
        let mut body = self.shared.own();
        let size = range.len() as u64;
        let memory = &mut body.state().memory;
        memory.map_range(address, range, writable)?;
        body.memory_came(size);
        body.settle();
        Ok(())
    }

    /// Takes back all regions of guest memory in a range, which must lie there as a
    /// whole. Queues of the device that lie there stop working. A rehearsal that is going on is
    /// waited for.
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
        let mut body = self.shared.own();
        let gone = unmap(&mut body.state().memory)?;
        let taken = body.memory_went(&gone);
        body.leave();
        // The thread waits a while for it to come back, and then no longer.
        self.shared.poller.kick();
        taken.map_err(|error| MapError::InReach(error.to_string()))
    }

    /// Takes back all guest memory, as [`unmap_memory`](Self::unmap_memory) does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unmap_all_memory(&self) -> Result<(), MapError> {
        self.take_away(|memory| Ok(memory.clear()))
    }

    /// Resets the function, as the VMM's reset line does. A component that
    /// has failed is replaced by a fresh instance.
    pub fn reset(&self) {
        self.run(Body::reset);
    }

    /// Resets the function and forgets all guest memory, as the VMM is gone. A
    /// rehearsal that is going on is waited for.
    pub fn detach(&self) {
        let _no_rehearsal = self.shared.rehearsing.lock();
        self.run(|body| {
            body.reset();
            let gone = body.state().memory.clear();
            // Nobody is told: whoever shared the memory is gone.
            let _ = body.memory_went(&gone);
            body.state().absence.waiting = false;
        });
        self.shared.telemetry.detached();
    }

    /// Notes that a VMM attached, for [`Totals`] and events; [`detach`](Self::detach) ends that.
    pub fn attach(&self) {
        self.shared.telemetry.attached();
    }

    /// Tells the device that a port's link went up or down.
    pub fn set_link(&self, port: u32, up: bool) {
        self.run(|body| body.link_changed(port, up));
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

    /// Returns one of the [`PARTS`](Self::PARTS) of the live tree. `device` is what the component says of
    /// itself, and waits for the device to ask it; no other part does. None if there is no such
    /// part.
    pub fn inspect_part(&self, part: &str) -> Option<serde_json::Value> {
        if part != "device" {
            return self.shared.telemetry.inspect(part);
        }
        let mut body = self.shared.own();
        let inspection = body.inspect();
        body.leave();
        Some(inspection.finish())
    }

    /// Returns what the device did so far, in numbers. Never waits for the device.
    pub fn totals(&self) -> Totals {
        self.shared.telemetry.totals()
    }

    /// Replaces the component while the guest goes on: it sees a pause.
    /// Checking and compiling `component` is done before this, or here but
    /// before the pause, as is the [rehearsal](Self::rehearse).
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the component that ran goes on.
    pub fn swap(&self, component: &Component, options: SwapOptions) -> Result<Swap, SwapError> {
        self.rehearse(component, options)?.swap()
    }

    /// Has a component do ahead what takes long in taking over, while the one
    /// that runs goes on.
    ///
    /// # Errors
    ///
    /// [`SwapError`], [`SwapError::Busy`] while there is another rehearsal.
    pub fn rehearse(
        &self,
        component: &Component,
        options: SwapOptions,
    ) -> Result<Rehearsal<'_>, SwapError> {
        let only = self.shared.swapping.try_lock().ok_or(SwapError::Busy)?;
        Rehearsal::new(self, only, component, options, false)
    }

    /// Returns the whole state of the device, for [`restore`](Self::restore) in
    /// another process, say. What is in its ports is not part of it: transmits
    /// that an endpoint has not finished are lost.
    ///
    /// A VMM that is served over vfio-user has its doorbells answered before they
    /// are carried out: read a register first, to be sure that the last one was.
    ///
    /// From then on nothing may touch the guest's memory but the device that
    /// is restored: drop this one, or [`reset`](Self::reset) it, before that
    /// goes on.
    ///
    /// # Errors
    ///
    /// [`SwapError::Down`] or [`SwapError::Save`].
    pub fn save(&self) -> Result<Vec<u8>, SwapError> {
        let mut body = self.shared.own();
        let state = body.snapshot();
        body.leave();
        state
    }

    /// Goes on where another device was when it was saved. This one was just
    /// made, with the same ports, and the guest's memory is mapped.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the device is at power-on.
    pub fn restore(&self, state: &[u8]) -> Result<(), RestoreError> {
        let mut body = self.shared.own();
        let restored = body.restore(state);
        body.settle();
        restored
    }

    /// Goes back to the component that ran before the last swap.
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the component that ran goes on.
    pub fn rollback(&self) -> Result<Swap, SwapError> {
        let only = self.shared.swapping.try_lock().ok_or(SwapError::Busy)?;
        let previous = self.shared.own().swaps.previous.clone();
        let previous = previous.ok_or(SwapError::NoPrevious)?;
        let options = SwapOptions {
            probation: Duration::ZERO,
        };
        Rehearsal::new(self, only, &previous.component, options, true)?.swap()
    }

    /// Does something with the device and then what follows from it.
    fn run(&self, act: impl FnOnce(&mut Body)) {
        let mut body = self.shared.own();
        act(&mut body);
        body.settle();
    }
}
