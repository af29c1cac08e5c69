//! The host's side of a device, which an instance's imports work on.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use wasmtime::{StoreLimits, StoreLimitsBuilder};

use super::delayed::{Delayed, LONGEST};
use super::direct::GuestAbi;
use super::gauges::Gauges;
use super::limits::Limits;
use super::linear_memory::{Reservation, RevokeError, View};
use super::port::PortState;
use super::queue::QueueState;
use super::scratch::Scratch;
use crate::continuity::live::Cell;
use crate::contract::{Features, HandedOver, Steering};
use crate::interrupt::{Interrupts, VectorSink};
use crate::memory::GuestMemory;
use crate::pci::msix::TableOwner;
use crate::pci::{Function, FunctionError, Identity};
use manatee_common::ration::Ration;

/// A region of guest memory of at least this many bytes is guest RAM: while it is unmapped,
/// buffers and queues may be too.
const RAM_REGION: u64 = 16 << 20;

/// The current permissions of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything.
    Running,
    /// Reading guest memory and mapping windows, and nothing with a visible effect: it is saving
    /// or taking over a state.
    Quiet,
}

/// The host's side of a device, which outlives an instance that failed.
#[derive(Debug)]
pub struct HostState {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Configuration space and MSI-X.
    pub function: Function,
    /// The sink of interrupts.
    pub interrupts: Interrupts,
    /// Interrupts that the instance had raised later.
    pub delayed: Delayed,
    /// The ports.
    pub ports: Vec<PortState>,
    /// The instance's linear memory, if windows can be laid over it.
    pub linear_memory: Option<Arc<Reservation>>,
    /// The imports' access to an instance that is called directly.
    pub inside: Option<GuestAbi>,
    /// The linear memory of an instance that rehearsed to take over.
    rehearsed: Weak<Reservation>,
    /// Whether guest memory was unmapped since the rehearsal.
    spoiled: bool,
    /// The limits of the instance.
    pub limits: Limits,
    /// wasmtime's form of these limits.
    pub store_limits: StoreLimits,
    /// The rations of its log lines, by level.
    pub logged: [Ration; 5],
    /// The rations of the host's lines that a guest, a VMM or the instance causes.
    pub notices: Ration,
    /// The buffers into which the lists of a call are copied.
    pub scratch: Scratch,
    /// The part that other threads may read at any time.
    pub gauges: Arc<Gauges>,
    /// Whether the published state of the device is out of date.
    pub stale: bool,
    /// The instance's permissions.
    pub phase: Phase,
    /// The features that it negotiated with the host.
    pub agreed: Features,
    /// Whether the instance reported a change of its configuration.
    pub changed: bool,
    /// The WQE that it announced in the current call.
    pub attempt: Option<u64>,
    /// Where that is noted for a successor, too.
    pub attempt_cell: Option<Cell>,
    /// Whether the current call writes a register.
    pub in_doorbell: bool,
    /// The state of guest memory that the instance uses.
    pub absence: Absence,
    /// Set when a file was shrunk under one of the instance's windows.
    pub window_lost: Option<Arc<AtomicBool>>,
}

/// Guest memory that is unmapped and may come back: a VMM that changes its memory map unmaps all
/// of it for a moment.
#[derive(Debug, Default)]
pub struct Absence {
    /// RAM is unmapped, or windows have lost pages. Work that only packets from outside cause
    /// is deferred.
    pub waiting: bool,
    /// A region as large as RAM is unmapped. A VMM maps regions again one by one, small ones
    /// first.
    pub ram: bool,
    /// Windows that have lost pages, not reported to the instance yet.
    pub lost: Vec<u32>,
    /// Windows whose loss was reported.
    pub told: Vec<u32>,
    /// Those of them that are complete again.
    pub back: Vec<u32>,
}

impl Absence {
    /// Returns whether any memory is awaited.
    #[inline]
    pub fn is_noted(&self) -> bool {
        self.waiting | self.ram
    }
}

impl HostState {
    /// Returns the state of a new device.
    pub fn new(
        mut function: Function,
        interrupts: Interrupts,
        ports: Vec<PortState>,
        limits: Limits,
    ) -> Self {
        let gauges = Arc::new(Gauges {
            ports: ports.iter().map(PortState::gauges).collect(),
            ..Gauges::default()
        });
        function.set_table_owner(match interrupts {
            Interrupts::Vectors(_) => TableOwner::Vmm,
            Interrupts::Messages(_) => TableOwner::Function,
        });
        Self {
            memory: GuestMemory::new(),
            function,
            interrupts,
            delayed: Delayed::default(),
            ports,
            linear_memory: None,
            inside: None,
            rehearsed: Weak::new(),
            spoiled: false,
            limits,
            store_limits: store_limits(&limits),
            logged: Default::default(),
            notices: Ration::default(),
            scratch: Scratch::default(),
            gauges,
            stale: true,
            phase: Phase::Running,
            agreed: Features::empty(),
            changed: false,
            attempt: None,
            attempt_cell: None,
            in_doorbell: false,
            absence: Absence::default(),
            window_lost: None,
        }
    }

    /// Returns the state of an instance that has no device yet.
    ///
    /// # Errors
    ///
    /// Never: a function without BARs is valid.
    pub fn vacant(limits: Limits) -> Result<Self, FunctionError> {
        let identity = Identity {
            vendor_id: 0,
            device_id: 0,
            subsystem_vendor_id: 0,
            subsystem_id: 0,
            revision_id: 0,
            class_code: 0,
        };
        let function = Function::new(identity, &[], 1)?;
        let interrupts = Interrupts::Vectors(Box::new(Nowhere));
        Ok(Self::new(function, interrupts, vec![], limits))
    }

    /// Moves the device to another instance's state, in exchange for that one's. The parts that belong
    /// to the instances stay with them.
    pub fn trade_places(&mut self, other: &mut Self) {
        std::mem::swap(self, other);
        std::mem::swap(&mut self.linear_memory, &mut other.linear_memory);
        std::mem::swap(&mut self.inside, &mut other.inside);
        std::mem::swap(&mut self.absence, &mut other.absence);
        std::mem::swap(&mut self.phase, &mut other.phase);
        std::mem::swap(&mut self.agreed, &mut other.agreed);
        std::mem::swap(&mut self.window_lost, &mut other.window_lost);
        std::mem::swap(&mut self.store_limits, &mut other.store_limits);
        let (own, others) = (self.agreed, other.agreed);
        self.fit_features(others);
        other.fit_features(own);
    }

    /// Records the negotiated features.
    pub fn agree(&mut self, features: Features) {
        let former = std::mem::replace(&mut self.agreed, features);
        self.fit_features(former);
    }

    /// Undoes settings of another instance whose features this one does not know.
    fn fit_features(&mut self, former: Features) {
        if !self.agreed.contains(Features::RATE_LIMIT) {
            self.ports.iter_mut().for_each(|port| port.limit_rate(None));
        }
        let (steers, reports) = (Features::STEERING, Features::RECEIVE_HASH);
        if !(former ^ self.agreed).intersects(steers | reports) {
            return;
        }
        let is_waiting = self.is_waiting();
        for port in &mut self.ports {
            if let Some(steering) = port.steering().cloned() {
                let memory = Some(&self.memory).filter(|_| !is_waiting);
                let steering = Some(steering).filter(|_| self.agreed.contains(steers));
                port.steer(memory, steering, self.agreed.contains(reports));
            }
        }
    }

    /// Returns how many transmits are pending at endpoints.
    pub fn pending_transmits(&self) -> u64 {
        let queues = self.ports.iter().flat_map(PortState::queues);
        queues.map(QueueState::pending).sum::<usize>() as u64
    }

    /// Counts the packets of a failed instance, sent and received, whose outcome is unknown.
    pub fn undelivered(&self) -> (u64, u64) {
        let count = |of: fn(&QueueState) -> usize| {
            let queues = self.ports.iter().flat_map(PortState::queues);
            queues.map(of).sum::<usize>() as u64
        };
        (
            count(|queue| queue.done.transmitted.len()),
            count(|queue| queue.done.received.len()),
        )
    }

    /// Returns the last packet that each queue was handed.
    pub fn handed_over(&self) -> impl Iterator<Item = HandedOver> + '_ {
        let ports = (0..).zip(&self.ports);
        ports.flat_map(|(port, state)| {
            let queues = (0..).zip(state.queues());
            queues.filter_map(move |(queue, state)| {
                let id = state.handed_over()?;
                Some(HandedOver { port, queue, id })
            })
        })
    }

    /// Sets the WQE that the component works on.
    pub fn set_attempt(&mut self, attempt: Option<u64>) {
        self.attempt = attempt;
        if let Some(cell) = &self.attempt_cell {
            cell.store(attempt.map_or(0, |element| element.wrapping_add(1)));
        }
    }

    /// Sets the last packet that a queue was handed, if the queue exists.
    pub fn set_handed_over(&mut self, last: HandedOver) {
        if let Some(port) = self.ports.get_mut(last.port as usize)
            && let Some(queue) = port.find(last.queue)
        {
            port.set_handed_over(queue, Some(last.id));
        }
    }

    /// Restores a port's settings of a saved device, if the instance knows the feature.
    pub fn restore_port(&mut self, port: u32, steering: Option<Steering>, mbps: Option<u32>) {
        let Self { ports, agreed, .. } = self;
        if let Some(port) = ports.get_mut(port as usize) {
            let steering = steering.filter(|_| agreed.contains(Features::STEERING));
            port.steer(None, steering, agreed.contains(Features::RECEIVE_HASH));
            port.limit_rate(mbps.filter(|_| agreed.contains(Features::RATE_LIMIT)));
        }
    }

    /// Returns when packets that are delayed by their port's rate are due.
    pub fn due(&self) -> Option<Instant> {
        self.ports.iter().filter_map(PortState::due).min()
    }

    /// Raises an MSI-X vector; one beyond the table is ignored. If it is masked now, it stays pending
    /// in the function. One that was to be raised later is raised now, with this.
    pub fn raise(&mut self, vector: u16) {
        let was_delayed = self.delayed.take(vector);
        self.deliver(vector, self.in_doorbell && !was_delayed);
    }

    /// Raises an MSI-X vector after this many microseconds, or with one that is raised sooner; one
    /// beyond the table is ignored.
    pub fn raise_within(&mut self, vector: u16, microseconds: u32) {
        if microseconds == 0 {
            self.delayed.take(vector);
            return self.deliver(vector, false);
        }
        let delay = Duration::from_micros(microseconds.into()).min(LONGEST);
        let vectors = self.function.msix_vectors();
        self.delayed.add(vector, vectors, Instant::now() + delay);
    }

    /// Raises the vectors that are due at this time, or all that wait if it is None.
    pub fn raise_due(&mut self, now: Option<Instant>) {
        let mut from = 0;
        while let Some(vector) = self.delayed.take_due(from, now) {
            self.deliver(vector, false);
            from = vector + 1;
        }
    }

    /// Raises a vector, of which the sink may defer the delivery if `may_defer` says so.
    fn deliver(&mut self, vector: u16, may_defer: bool) {
        if vector >= self.function.msix_vectors() {
            return;
        }
        self.gauges.interrupts_raised.add(1);
        let was_pending = self.function.is_pending(vector);
        let Some(message) = self.function.raise(vector) else {
            self.stale |= !was_pending;
            return;
        };
        match &self.interrupts {
            Interrupts::Vectors(sink) if may_defer => sink.raise_late(vector),
            Interrupts::Vectors(sink) => sink.raise(vector),
            Interrupts::Messages(sink) => sink.send(message),
        }
    }

    /// Raises vectors on the VMM's request.
    pub fn raise_for_vmm(&mut self, vectors: Range<u16>) {
        self.stale = true;
        for vector in vectors {
            match (self.function.raise_for_vmm(vector), &self.interrupts) {
                (Some(_), Interrupts::Vectors(sink)) => sink.raise(vector),
                (Some(message), Interrupts::Messages(sink)) => sink.send(message),
                (None, _) => {}
            }
        }
    }

    /// Delivers all interrupts that the sink deferred. Those that the device had raised later wait
    /// on.
    pub fn hurry(&self) {
        if let Interrupts::Vectors(sink) = &self.interrupts {
            sink.hurry();
        }
    }

    /// Forgets interrupts that were raised and not delivered.
    pub fn forget_raised(&mut self) {
        while self.delayed.take_due(0, None).is_some() {}
        if let Interrupts::Vectors(sink) = &self.interrupts {
            sink.forget();
        }
    }

    /// Takes back everything that the instance gave out: buffers, pending transmits, windows.
    pub fn abandon_instance(&mut self) {
        self.ports.iter_mut().for_each(PortState::abandon);
        self.linear_memory = None;
        self.inside = None;
        self.absence = Absence::default();
        self.window_lost = None;
        self.phase = Phase::Running;
        self.store_limits = store_limits(&self.limits);
    }

    /// Gives an instance without a device access to this one's guest memory, and to nothing else,
    /// until [`close`](Self::close).
    pub fn open_to(&mut self, rehearsing: &mut Self) {
        rehearsing.memory = self.memory.clone();
        rehearsing.function = self.function.clone();
        let linear_memory = rehearsing.linear_memory.as_ref();
        self.rehearsed = linear_memory.map(Arc::downgrade).unwrap_or_default();
        self.spoiled = false;
    }

    /// Ends what [`open_to`](Self::open_to) began; windows stay.
    pub fn close(&mut self) {
        self.memory.clear();
    }

    /// Returns whether an instance rehearsed, and the guest memory that it saw then is still mapped.
    /// Called once, when it is about to take over.
    pub fn take_rehearsed(&mut self, instance: &Self) -> bool {
        let rehearsed = std::mem::take(&mut self.rehearsed).upgrade();
        let own = instance.linear_memory.as_ref();
        let same = rehearsed.zip(own).is_some_and(|(a, b)| Arc::ptr_eq(&a, b));
        same && !self.spoiled
    }

    /// Revokes guest memory that was unmapped: windows must not show it any more.
    ///
    /// # Errors
    ///
    /// [`RevokeError`]; the instance must end.
    pub fn revoke(&mut self, gone: &[Range<u64>]) -> Result<(), RevokeError> {
        if let Some(rehearsed) = self.rehearsed.upgrade() {
            self.spoiled = true;
            rehearsed.revoke(gone)?;
        }
        let lost = match &self.linear_memory {
            Some(linear_memory) => linear_memory.revoke(gone)?,
            None => Vec::new(),
        };
        let ram = gone
            .iter()
            .any(|range| range.end - range.start >= RAM_REGION);
        self.absence.ram |= ram;
        self.absence.waiting |= ram || !lost.is_empty();
        self.absence.back.retain(|offset| !lost.contains(offset));
        for offset in lost {
            if !self.absence.lost.contains(&offset) && !self.absence.told.contains(&offset) {
                self.absence.lost.push(offset);
            }
        }
        Ok(())
    }

    /// Handles that a region of guest memory of this size was mapped: windows that lost it show it
    /// again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the instance must end.
    pub fn give_back(&mut self, size: u64) -> std::io::Result<()> {
        let absence = &mut self.absence;
        absence.ram &= size < RAM_REGION;
        absence.waiting &= absence.ram || !absence.lost.is_empty();
        if absence.lost.is_empty() && absence.told.is_empty() {
            return Ok(());
        }
        let Some(linear_memory) = &self.linear_memory else {
            return Ok(());
        };
        let whole = linear_memory.restore(&self.memory)?;
        absence.lost.retain(|offset| !whole.contains(offset));
        absence.waiting &= absence.ram || !absence.lost.is_empty();
        let told = whole
            .into_iter()
            .filter(|offset| absence.told.contains(offset));
        absence.back.extend(told);
        Ok(())
    }

    /// Says which guest memory is lost for good, if any: its file was shrunk while the device used
    /// it.
    #[inline]
    pub fn lost_memory(&self) -> Option<String> {
        let window = self.window_lost.as_ref();
        if window.is_some_and(|lost| lost.load(Ordering::Acquire)) {
            return Some("guest memory under a window is gone: its file was made shorter".into());
        }
        self.memory.lost()
    }

    /// Returns what windows are to show now.
    pub fn view(&self) -> View {
        match self.phase {
            _ if !self.function.bus_master() => View::Nothing,
            Phase::Quiet => View::Private,
            Phase::Running => View::Shared,
        }
    }

    /// Maps the windows to what they are to show now.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the instance must end.
    pub fn show_windows(&self) -> std::io::Result<()> {
        match &self.linear_memory {
            Some(linear_memory) => linear_memory.show(self.view(), &self.memory),
            None => Ok(()),
        }
    }

    /// Returns whether work that only packets from outside cause is deferred: guest memory is
    /// unmapped for a moment.
    pub fn is_waiting(&self) -> bool {
        self.absence.waiting || !self.function.bus_master()
    }
}

/// The sink for the interrupts of no device.
struct Nowhere;

impl VectorSink for Nowhere {
    fn raise(&self, _vector: u16) {}
}

fn store_limits(limits: &Limits) -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(limits.memory)
        .memories(1)
        .tables(8)
        .table_elements(10_000)
        .instances(16)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_in_parts_is_waited_for_until_ram_is_there() {
        let mut state = HostState::vacant(Limits::default()).unwrap();
        let gone = |end| vec![Range { start: 0, end }];
        state.revoke(&gone(2 * RAM_REGION)).unwrap();
        assert!(state.absence.waiting);
        state.give_back(0xa_0000).unwrap();
        assert!(state.absence.waiting, "a small region is not RAM");
        state.give_back(RAM_REGION).unwrap();
        assert!(!state.absence.waiting);
        state.revoke(&gone(0x1000)).unwrap();
        assert!(!state.absence.waiting, "nothing lies there that is in use");
    }
}
