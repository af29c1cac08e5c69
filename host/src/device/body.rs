//! What the lock of a device protects, and how it is kept going.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::DeviceError;
use super::doorbells::Doorbells;
use super::recovery::{CrashPolicy, Recoverer};
use super::swap::{SwapError, Swaps};
use crate::bindings::exports::manatee::device::device::{Description, PortConfig};
use crate::component::Component;
use crate::endpoint::Completions;
use crate::interrupt::Interrupts;
use crate::pci::msix::Due;
use crate::runtime::{Failure, HostState, Instance, PortState};

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
    /// Nor after that: code of the host's own did not get to its end.
    pub(super) ended: bool,
    pub(super) recoverer: Recoverer,
    pub(super) swaps: Swaps,
    /// Instances that began anew, at power-on.
    pub restarts: u64,
}

impl Body {
    /// A device in its power-on state.
    pub fn new(
        component: Component,
        description: Description,
        state: HostState,
        policy: CrashPolicy,
    ) -> Result<Self, DeviceError> {
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
            ended: false,
            recoverer: Recoverer::new(policy, doorbells),
            swaps: Swaps::default(),
            restarts: 0,
        })
    }

    /// What the device is told of its ports.
    pub fn ports(&self) -> Vec<PortConfig> {
        port_configs(self.state_ref())
    }

    /// Instances that failed.
    pub fn failures(&self) -> u64 {
        self.recoverer.failures
    }

    /// The component's state.
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
            Some(Ok(Some(state))) => Ok(state),
            Some(Ok(None)) => Err(SwapError::TooLarge),
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

    /// The host's side.
    pub fn state(&mut self) -> &mut HostState {
        match &mut self.life {
            Life::Running(instance) => instance.state(),
            Life::Dead(state, _) => state,
            Life::Between => unreachable!("a device is between lives only inside `restart`"),
        }
    }

    /// The host's side, to look at.
    pub fn state_ref(&self) -> &HostState {
        match &self.life {
            Life::Running(instance) => instance.state_ref(),
            Life::Dead(state, _) => state,
            Life::Between => unreachable!("a device is between lives only inside `restart`"),
        }
    }

    /// The component.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// The instance, while it runs.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        match &mut self.life {
            Life::Running(instance) if instance.failure().is_none() => Some(instance),
            _ => None,
        }
    }

    /// Why the component failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.life {
            Life::Running(instance) => instance.failure(),
            Life::Dead(_, failure) => Some(failure),
            Life::Between => None,
        }
    }

    /// For each port, what becomes readable when packets wait.
    pub fn endpoints(&self) -> std::io::Result<Vec<Option<OwnedFd>>> {
        let ports = self.state_ref().ports.iter();
        ports
            .map(|port| {
                let fd = port.endpoint().readiness();
                fd.map(|fd| fd.as_fd().try_clone_to_owned()).transpose()
            })
            .collect()
    }

    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.state_ref().function.config_read(offset, data);
    }

    pub fn config_write(&mut self, offset: u64, data: &[u8]) {
        let state = self.state();
        // A mask holds back nothing that was raised before it.
        state.hurry();
        let was_master = state.function.bus_master();
        let due = state.function.config_write(offset, data);
        deliver_interrupts(state, due);
        if !was_master && state.function.bus_master() {
            for port in &mut state.ports {
                port.poll = true;
            }
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

    /// Writes a BAR. [`settle`](Self::settle) sees to the work that this makes, and
    /// to a failure.
    pub fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let state = self.state();
        let function = &mut state.function;
        if !function.memory_enabled() || !fits(function.bar_size(bar), offset, data.len()) {
            return;
        }
        if bar == function.msix_bar() {
            state.hurry();
            let due = state.function.msix_write(offset, data);
            return deliver_interrupts(state, due);
        }
        let mut at = offset;
        let mut rest = data;
        let mut more = false;
        while !rest.is_empty() {
            let width = width(at, rest.len());
            let (now, later) = rest.split_at(width);
            let mut value = [0; 8];
            value[..width].copy_from_slice(now);
            let value = u64::from_le_bytes(value);
            match width {
                8 => self.recoverer.doorbells.note(bar, at, value),
                4 => self.recoverer.doorbells.note_half(bar, at, value),
                _ => {}
            }
            let Some(instance) = self.instance() else {
                break;
            };
            let Ok(left) = instance.write_register(bar, at, width as u8, value) else {
                break;
            };
            more |= left;
            at += width as u64;
            rest = later;
        }
        self.work_left |= more;
    }

    pub fn link_changed(&mut self, port: u32, up: bool) {
        if let Some(instance) = self.instance() {
            let _ = instance.link_changed(port, up);
        }
        self.note_failure();
    }

    /// Packets may be waiting at a port.
    pub fn wake_port(&mut self, port: usize) {
        if let Some(port) = self.state().ports.get_mut(port) {
            port.poll = true;
        }
    }

    /// Power-on state, with the ports and the guest memory that there are.
    pub fn reset(&mut self) {
        self.state().function.reset();
        self.recoverer.forget();
        self.work_left = false;
        let reset = self.instance().map(Instance::reset);
        if matches!(reset, Some(Ok(()))) {
            // Whatever the component did not take back is taken back here.
            let state = self.state();
            state.changed = false;
            for port in &mut state.ports {
                port.cancel_receive();
                port.cancel_transmit();
            }
        } else {
            self.begin_anew();
        }
    }

    /// Whether [`settle`](Self::settle) would find something to do.
    pub fn has_work(&self) -> bool {
        let state = self.state_ref();
        let master = state.function.bus_master();
        let waiting = |port: &PortState| master && port.poll || !port.done.is_empty();
        self.failure().is_none() && (self.work_left || state.ports.iter().any(waiting))
    }

    /// Moves packets and completions until there is nothing left to do, or
    /// others should get a turn. True if work is left.
    #[must_use]
    pub fn settle(&mut self) -> bool {
        for _ in 0..ROUNDS {
            let busy = self.settle_once();
            self.note_failure();
            if !busy && !self.work_left {
                return false;
            }
        }
        self.instance().is_some()
    }

    /// Tells the device of everything that endpoints have finished.
    pub(super) fn deliver_all(&mut self) {
        for index in 0..self.state_ref().ports.len() {
            if let Some(instance) = self.instance()
                && let Ok(Some(more)) = deliver(instance, index)
            {
                self.work_left |= more;
            }
            self.note_failure();
        }
    }

    fn settle_once(&mut self) -> bool {
        let mut busy = false;
        let Life::Running(instance) = &mut self.life else {
            return false;
        };
        if instance.failure().is_some() {
            return false;
        }
        for index in 0..instance.state().ports.len() {
            if !instance.state().ports[index].has_work() {
                continue;
            }
            busy |= receive(instance.state(), index);
            match deliver(instance, index) {
                Ok(Some(more)) => {
                    busy = true;
                    self.work_left |= more;
                }
                Ok(None) => {}
                Err(Failure { .. }) => return false,
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

/// Lets an endpoint write waiting packets to posted buffers. True if there
/// may be more.
fn receive(state: &mut HostState, index: usize) -> bool {
    let master = state.function.bus_master();
    let HostState { ports, memory, .. } = state;
    let port = &mut ports[index];
    if !master || !std::mem::take(&mut port.poll) {
        return false;
    }
    let (endpoint, mut io) = port.split(memory);
    port.poll = endpoint.receive(&mut io);
    port.poll
}

/// Tells the device what an endpoint finished. None if that is nothing.
fn deliver(instance: &mut Instance, index: usize) -> Result<Option<bool>, Failure> {
    let mut done = std::mem::take(&mut instance.state().ports[index].done);
    let told = tell(instance, index as u32, &done);
    if told.is_err() {
        // It is counted as lost there.
        instance.state().ports[index].done = done;
        return told;
    }
    done.transmitted.clear();
    done.received.clear();
    // What the endpoint finished meanwhile goes behind the emptied lists,
    // which keep their allocation.
    let late = std::mem::replace(&mut instance.state().ports[index].done, done);
    let now = &mut instance.state().ports[index].done;
    now.received.extend(late.received);
    now.transmitted.extend(late.transmitted);
    told
}

fn tell(instance: &mut Instance, port: u32, done: &Completions) -> Result<Option<bool>, Failure> {
    let mut told = None;
    if !done.transmitted.is_empty() {
        told = Some(instance.transmitted(port, &done.transmitted)?);
    }
    if !done.received.is_empty() {
        let more = instance.received(port, &done.received)?;
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

/// The widest access at an offset: a power of two that divides it, at most 8.
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
