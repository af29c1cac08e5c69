//! What the lock of a device protects, and how it is kept going.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::doorbells::Doorbells;
use super::error::DeviceError;
use super::recovery::{CrashPolicy, Recoverer};
use super::swap::{SwapError, Swaps};
use super::telemetry::{ComponentView, Listener, Telemetry, View};
use crate::component::Component;
use crate::contract::{Description, LinkState, PortConfig, RegisterWrite};
use crate::endpoint::Completions;
use crate::interrupt::Interrupts;
use crate::pci::Function;
use crate::pci::msix::Due;
use crate::runtime::{Failure, HostState, Instance, PortState, RevokeError};

/// Rounds of work until somebody else gets a turn.
const ROUNDS: usize = 8;

/// A device's instance with its host's side, or that side alone once the
/// component could not even be instantiated again.
#[derive(Debug)]
pub(super) enum Life {
    Running(Box<Instance>),
    Dead(Box<HostState>, Failure),
    /// Only while one is made of the other.
    Between,
}

/// A device, as its owner of the moment sees it.
#[derive(Debug)]
pub struct Body {
    pub(super) component: Component,
    pub(super) description: Arc<Description>,
    pub(super) life: Life,
    /// The device said that work is left.
    pub(super) work_left: bool,
    /// No more instances are tried until the device is reset.
    pub(super) down: bool,
    /// The component failed, and what is left of this stay was too little for a
    /// fresh instance: the next stay begins with that.
    pub(super) recovering: bool,
    /// Doorbells that rang while the guest had bus mastering off, or that are for the
    /// device's own thread.
    held: Doorbells,
    /// Some of them are for the thread.
    ring_late: bool,
    /// Nor after that: code of the host's own did not get to its end.
    pub(super) ended: bool,
    pub(super) recoverer: Recoverer,
    pub(super) swaps: Swaps,
    /// Instances that began anew, at power-on.
    pub restarts: u64,
    /// What others see of all this.
    pub(super) telemetry: Arc<Telemetry>,
    /// The size of linear memory that they see.
    pub(super) shown_bytes: Option<usize>,
}

impl Body {
    /// Creates a device in its power-on state.
    pub fn new(
        component: Component,
        description: Description,
        state: HostState,
        policy: CrashPolicy,
        listener: Option<Listener>,
    ) -> Result<Self, DeviceError> {
        let gauges = state.gauges.clone();
        let running = ComponentView::of(&component, &description, &state.limits);
        let telemetry = Telemetry::new(gauges, View::of(running, &state), listener);
        let mut instance =
            Instance::new(component.code(), state).map_err(|(failure, _)| failure)?;
        let ports = port_configs(instance.state_ref());
        instance.configure(&ports)?.map_err(DeviceError::Refused)?;
        let life = Life::Running(Box::new(instance));
        let doorbells = Doorbells::new(&description.doorbells);
        Ok(Self {
            component,
            description: Arc::new(description),
            life,
            work_left: false,
            down: false,
            recovering: false,
            held: doorbells.clone(),
            ring_late: false,
            ended: false,
            recoverer: Recoverer::new(policy, doorbells),
            swaps: Swaps::default(),
            restarts: 0,
            telemetry: Arc::new(telemetry),
            shown_bytes: None,
        })
    }

    /// Begins a stay under the device's lock, for which the component has one
    /// deadline.
    #[inline]
    pub fn begin_stay(&mut self) {
        if let Life::Running(instance) = &mut self.life {
            instance.begin_stay();
        }
        if self.recovering {
            self.recover();
        }
    }

    /// Returns what the device is told of its ports.
    pub fn ports(&self) -> Vec<PortConfig> {
        port_configs(self.state_ref())
    }

    /// Returns how many instances failed.
    pub fn failures(&self) -> u64 {
        self.recoverer.failures
    }

    /// Returns the component's state.
    ///
    /// # Errors
    ///
    /// [`SwapError::Down`] or [`SwapError::Save`].
    pub fn save(&mut self) -> Result<Vec<u8>, SwapError> {
        if let Some(failure) = self.failure() {
            return Err(SwapError::Down(failure.clone()));
        }
        let saved = self.instance().map(Instance::save);
        self.note_failure();
        match saved {
            Some(Ok(state)) => Ok(state),
            Some(Err(failure)) => Err(SwapError::Save(failure)),
            None => Err(SwapError::Busy),
        }
    }

    /// Goes on with another instance. Returns the one that ran.
    pub(super) fn switch_to(&mut self, instance: Box<Instance>) -> Box<Instance> {
        match std::mem::replace(&mut self.life, Life::Running(instance)) {
            Life::Running(old) => old,
            Life::Dead(..) | Life::Between => unreachable!("only a running device is replaced"),
        }
    }

    /// Returns the host's side.
    pub fn state(&mut self) -> &mut HostState {
        match &mut self.life {
            Life::Running(instance) => instance.state(),
            Life::Dead(state, _) => state,
            Life::Between => unreachable!("a device is between lives only inside `restart`"),
        }
    }

    /// Returns the host's side, to look at.
    pub fn state_ref(&self) -> &HostState {
        match &self.life {
            Life::Running(instance) => instance.state_ref(),
            Life::Dead(state, _) => state,
            Life::Between => unreachable!("a device is between lives only inside `restart`"),
        }
    }

    /// Returns the component.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Returns the instance, while it runs.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        match &mut self.life {
            Life::Running(instance) if instance.failure().is_none() => Some(instance),
            _ => None,
        }
    }

    /// Returns why the component failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.life {
            Life::Running(instance) => instance.failure(),
            Life::Dead(_, failure) => Some(failure),
            Life::Between => None,
        }
    }

    /// Returns, for each queue of each port in order, what becomes readable when packets wait.
    pub fn endpoints(&self) -> std::io::Result<Vec<Option<OwnedFd>>> {
        let ports = self.state_ref().ports.iter();
        let queues = ports.flat_map(PortState::queues);
        queues
            .map(|queue| {
                let fd = queue.queue().readiness();
                fd.map(|fd| fd.as_fd().try_clone_to_owned()).transpose()
            })
            .collect()
    }

    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.state_ref().function.config_read(offset, data);
    }

    pub fn config_write(&mut self, offset: u64, data: &[u8]) {
        if Function::initiates_reset(offset, data) {
            return self.reset();
        }
        let state = self.state();
        state.stale = true;
        // A mask holds back nothing that was raised before it.
        state.hurry();
        let was_master = state.function.bus_master();
        let due = state.function.config_write(offset, data);
        self.mastering_changed(was_master, due);
    }

    /// Sees to what follows from a change of bus mastering, if there was one, and
    /// delivers what it let through.
    pub(super) fn mastering_changed(&mut self, was_master: bool, due: Vec<Due>) {
        let state = self.state();
        deliver_interrupts(state, due);
        if was_master == state.function.bus_master() {
            return;
        }
        self.show_windows();
        if !was_master {
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

    /// Has the component's windows show what they are to show.
    fn show_windows(&mut self) {
        if let Some(instance) = self.instance() {
            // A failure is seen to like any other.
            let _ = instance.show_windows();
        }
    }

    /// Bus mastering is on again: packets may be waiting, and doorbells that rang
    /// meanwhile.
    fn ring_held(&mut self) {
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

    /// Takes guest memory away that is gone: the component's windows must not show it.
    ///
    /// # Errors
    ///
    /// [`RevokeError`] if it may still be in reach; the component has failed then.
    pub fn memory_went(&mut self, gone: &[Range<u64>]) -> Result<(), RevokeError> {
        self.state().stale = true;
        let Err(error) = self.state().revoke(gone) else {
            return Ok(());
        };
        self.fail(Failure::because(&error.to_string()));
        self.note_failure();
        if error.in_reach { Err(error) } else { Ok(()) }
    }

    /// Returns a region of so many bytes of guest memory came: windows that had lost theirs may
    /// have it again.
    pub fn memory_came(&mut self, size: u64) {
        self.state().stale = true;
        let was_waiting = self.state_ref().absence.waiting;
        if let Err(error) = self.state().give_back(size) {
            self.fail(Failure::because(&format!("laying its windows: {error}")));
            return self.note_failure();
        }
        let absence = &mut self.state().absence;
        let back = std::mem::take(&mut absence.back);
        absence.told.retain(|offset| !back.contains(offset));
        if !back.is_empty()
            && let Some(instance) = self.instance()
        {
            let _ = instance.windows_changed(&back, true);
        }
        if was_waiting && !self.state_ref().absence.waiting {
            self.wake_all();
        }
    }

    /// Does not wait any longer for guest memory to come back: tells the component
    /// of the windows that have lost theirs, whose queues fail by themselves.
    pub fn stop_waiting(&mut self) {
        let absence = &mut self.state().absence;
        absence.ram = false;
        if !std::mem::take(&mut absence.waiting) {
            return;
        }
        let lost = std::mem::take(&mut absence.lost);
        absence.told.extend_from_slice(&lost);
        if !lost.is_empty()
            && let Some(instance) = self.instance()
        {
            let _ = instance.windows_changed(&lost, false);
        }
        self.wake_all();
    }

    /// Notes that packets may be waiting at every port.
    fn wake_all(&mut self) {
        self.state().ports.iter_mut().for_each(PortState::wake_all);
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

    /// Writes a BAR. [`settle`](Self::settle) sees to the work that this makes, and
    /// to a failure.
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
            return deliver_interrupts(state, due);
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
            return;
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
    }

    /// Writes a register, or holds a doorbell back until the guest has bus mastering
    /// on. Returns whether the component runs on.
    #[inline]
    fn write_register(&mut self, bar: u8, at: u64, width: usize, value: u64) -> bool {
        self.recoverer.doorbells.note(bar, at, width, value);
        if !self.state_ref().function.bus_master() && self.held.note(bar, at, width, value) {
            return true;
        }
        let Some(instance) = self.instance() else {
            return false;
        };
        let left = instance.write_register(bar, at, width as u8, value);
        self.work_left |= left.as_ref().is_ok_and(|left| *left);
        left.is_ok()
    }

    pub fn link_changed(&mut self, port: u32, up: bool) {
        let state = if up { LinkState::Up } else { LinkState::Down };
        let link = self.state().ports.get_mut(port as usize).map(|port| {
            port.set_link(state);
            port.link()
        });
        if let Some(link) = link
            && let Some(instance) = self.instance()
        {
            let _ = instance.link_changed(port, link);
        }
        self.note_failure();
    }

    /// Notes that packets may be waiting at a queue, of which [`endpoints`](Self::endpoints) says
    /// the number.
    pub fn wake_queue(&mut self, mut number: usize) {
        for port in &mut self.state().ports {
            let count = port.count();
            if number < count.into() {
                return port.wake(number as u16);
            }
            number -= usize::from(count);
        }
    }

    /// Goes to the power-on state, with the ports and the guest memory that there are.
    pub fn reset(&mut self) {
        let state = self.state();
        state.stale = true;
        state.function.reset();
        state.forget_raised();
        self.show_windows();
        self.state().absence.waiting = false;
        self.held.clear();
        self.ring_late = false;
        self.recoverer.forget();
        self.work_left = false;
        self.recovering = false;
        let reset = self.instance().map(Instance::reset);
        if matches!(reset, Some(Ok(()))) {
            // Whatever the component did not take back is taken back here.
            let state = self.state();
            state.changed = false;
            state.ports.iter_mut().for_each(PortState::reset);
        } else {
            self.begin_anew();
        }
    }

    /// Returns whether [`settle`](Self::settle) would find something to do.
    pub fn has_work(&self) -> bool {
        let state = self.state_ref();
        if self.failure().is_some() {
            return self.recovering;
        }
        !state.is_waiting()
            && (self.work_left || self.ring_late || state.ports.iter().any(PortState::has_work))
    }

    /// Moves packets and completions until there is nothing left to do, or
    /// others should get a turn. True if work is left.
    #[must_use]
    pub fn settle(&mut self) -> bool {
        let more = self.run();
        self.publish();
        more
    }

    fn run(&mut self) -> bool {
        if self.ring_late && self.state_ref().function.bus_master() {
            self.ring_held();
        }
        for _ in 0..ROUNDS {
            let busy = self.settle_once();
            self.note_failure();
            if !busy && !self.work_left {
                return self.recovering | self.take_alarm();
            }
            if self.state_ref().is_waiting() {
                return false;
            }
            if self.is_over() {
                break;
            }
        }
        self.recovering || self.instance().is_some()
    }

    /// Returns when packets that wait for their port's rate may leave, if any may at all.
    pub fn due(&self) -> Option<Instant> {
        let state = self.state_ref();
        let goes_on = self.failure().is_none() && !state.is_waiting();
        goes_on.then(|| state.due()).flatten()
    }

    /// Returns whether the device's own thread has to hear when packets are due.
    fn take_alarm(&mut self) -> bool {
        let ports = self.state().ports.iter_mut();
        ports.fold(false, |any, port| any | port.take_alarm())
    }

    /// Tells the device of everything that endpoints have finished.
    pub(super) fn deliver_all(&mut self) {
        for index in 0..self.state_ref().ports.len() {
            for queue in self.state_ref().ports[index].finished() {
                if let Some(instance) = self.instance()
                    && let Ok(Some(more)) = deliver(instance, index, queue)
                {
                    self.work_left |= more;
                }
                self.note_failure();
            }
        }
    }

    /// Returns whether others should get a turn, because the component had its time.
    fn is_over(&self) -> bool {
        match &self.life {
            Life::Running(instance) => instance.has_overstayed(),
            _ => false,
        }
    }

    fn settle_once(&mut self) -> bool {
        let mut busy = false;
        let Life::Running(instance) = &mut self.life else {
            return false;
        };
        if instance.failure().is_some() || instance.state_ref().is_waiting() {
            return false;
        }
        for index in 0..instance.state().ports.len() {
            let HostState { ports, memory, .. } = instance.state();
            let port = &mut ports[index];
            port.release(memory);
            if !port.has_work() {
                continue;
            }
            for queue in port.take_turned() {
                match deliver(instance, index, queue) {
                    Ok(more) => self.work_left |= more.unwrap_or(false),
                    Err(Failure { .. }) => return false,
                }
            }
            for queue in instance.state_ref().ports[index].work() {
                busy |= receive(instance.state(), index, queue);
                match deliver(instance, index, queue) {
                    Ok(Some(more)) => {
                        busy = true;
                        self.work_left |= more;
                    }
                    Ok(None) => {}
                    Err(Failure { .. }) => return false,
                }
            }
        }
        if std::mem::take(&mut self.work_left) {
            busy = true;
            self.work_left = instance.service().unwrap_or(false);
        }
        busy
    }
}

pub(super) fn port_configs(state: &HostState) -> Vec<PortConfig> {
    state.ports.iter().map(PortState::config).collect()
}

/// Lets a queue write waiting packets to posted buffers. True if there may be
/// more.
#[inline]
fn receive(state: &mut HostState, port: usize, queue: u16) -> bool {
    let HostState { ports, memory, .. } = state;
    ports[port].receive(queue, memory)
}

/// Tells the device what a queue finished. None if that is nothing.
fn deliver(instance: &mut Instance, port: usize, queue: u16) -> Result<Option<bool>, Failure> {
    let mut done = instance.state().ports[port].take_done(queue);
    let told = tell(instance, port as u32, queue, &done);
    if told.is_ok() {
        // The emptied lists keep their allocation.
        done.transmitted.clear();
        done.received.clear();
    }
    // If it failed, what it was to be told is counted as lost there.
    instance.state().ports[port].give_back_done(queue, done);
    told
}

fn tell(
    instance: &mut Instance,
    port: u32,
    queue: u16,
    done: &Completions,
) -> Result<Option<bool>, Failure> {
    let mut told = None;
    if !done.transmitted.is_empty() {
        told = Some(instance.transmitted(port, queue, &done.transmitted)?);
    }
    if !done.received.is_empty() {
        let more = instance.received(port, queue, &done.received)?;
        instance.state_ref().hurry();
        told = Some(more | told.unwrap_or(false));
    }
    Ok(told)
}

/// Delivers what was held back until now.
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
