//! The part of a device that its lock protects.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::doorbells::Doorbells;
use super::error::DeviceError;
use super::recovery::{CrashPolicy, Recoverer};
use super::swap::{SwapError, Swaps};
use super::telemetry::{ComponentView, Listener, Telemetry, View};
use crate::component::Component;
use crate::continuity::live::LiveState;
use crate::contract::{Description, LinkState, PortConfig};
use crate::runtime::{Failure, HostState, Instance, PortState, RevokeError};

/// A device's instance with its host's side, or that side alone once the
/// component could not even be instantiated again.
#[derive(Debug)]
pub(super) enum InstanceState {
    Running(Box<Instance>),
    Dead(Box<HostState>, Failure),
    /// A transient value while one of the others is built.
    Between,
}

/// A device, for the holder of its lock.
#[derive(Debug)]
pub struct DeviceInner {
    pub(super) component: Component,
    pub(super) description: Arc<Description>,
    pub(super) life: InstanceState,
    /// The component reported remaining work.
    pub(super) work_left: bool,
    /// Whether no more instances are tried until the device is reset.
    pub(super) down: bool,
    /// Whether the component failed with too little time left for a fresh instance: the next owner
    /// begins with that.
    pub(super) recovering: bool,
    /// Set if the component failed while the guest had bus mastering off: a fresh instance continues when
    /// that is on again.
    pub(super) recovers_with_memory: bool,
    /// Doorbells that rang while the guest had bus mastering off, or that are for the
    /// device's own thread.
    pub(super) held: Doorbells,
    /// Whether some of them are for the thread.
    pub(super) ring_late: bool,
    /// Whether it stays down even after a reset: the host's own code panicked.
    pub(super) ended: bool,
    pub(super) recoverer: Recoverer,
    pub(super) swaps: Swaps,
    /// Resets that started a fresh instance because the previous one had failed.
    pub restarts: u64,
    /// The copy that others see.
    pub(super) telemetry: Arc<Telemetry>,
    /// What a successor continues with if this process dies.
    pub(super) live: Option<LiveState>,
    /// The map of guest memory changed since it was shown last.
    pub(super) memory_changed: bool,
    /// The VMM's last request that the device has carried out.
    pub(super) executed: u64,
    /// The size of linear memory that they see.
    pub(super) shown_bytes: Option<usize>,
}

impl DeviceInner {
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
        let life = InstanceState::Running(Box::new(instance));
        let doorbells = Doorbells::new(&description.doorbells);
        Ok(Self {
            component,
            description: Arc::new(description),
            life,
            work_left: false,
            down: false,
            recovering: false,
            recovers_with_memory: false,
            held: doorbells.clone(),
            ring_late: false,
            ended: false,
            recoverer: Recoverer::new(policy, doorbells),
            swaps: Swaps::default(),
            restarts: 0,
            telemetry: Arc::new(telemetry),
            live: None,
            memory_changed: false,
            executed: 0,
            shown_bytes: None,
        })
    }

    /// Begins a period of owning the device, for which the component has one deadline.
    #[inline]
    pub fn begin_stay(&mut self) {
        if let InstanceState::Running(instance) = &mut self.life {
            instance.begin_stay();
        }
        if self.recovering {
            self.recover();
        }
    }

    /// Returns the description of the ports for the component.
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

    /// Continues with another instance. Returns the one that ran.
    pub(super) fn switch_to(&mut self, instance: Box<Instance>) -> Box<Instance> {
        match std::mem::replace(&mut self.life, InstanceState::Running(instance)) {
            InstanceState::Running(old) => old,
            InstanceState::Dead(..) | InstanceState::Between => {
                unreachable!("only a running device is replaced")
            }
        }
    }

    /// Returns the host's side.
    pub fn state(&mut self) -> &mut HostState {
        match &mut self.life {
            InstanceState::Running(instance) => instance.state(),
            InstanceState::Dead(state, _) => state,
            InstanceState::Between => {
                unreachable!("a device is between lives only inside `restart`")
            }
        }
    }

    /// Returns the host's side, to look at.
    pub fn state_ref(&self) -> &HostState {
        match &self.life {
            InstanceState::Running(instance) => instance.state_ref(),
            InstanceState::Dead(state, _) => state,
            InstanceState::Between => {
                unreachable!("a device is between lives only inside `restart`")
            }
        }
    }

    /// Returns the component.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Returns the instance, while it runs.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        match &mut self.life {
            InstanceState::Running(instance) if instance.failure().is_none() => Some(instance),
            _ => None,
        }
    }

    /// Returns why the component failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.life {
            InstanceState::Running(instance) => instance.failure(),
            InstanceState::Dead(_, failure) => Some(failure),
            InstanceState::Between => None,
        }
    }

    /// Returns, for each queue in order, the descriptor that is readable when packets wait.
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

    /// Revokes the component's windows into guest memory that was unmapped.
    ///
    /// # Errors
    ///
    /// [`RevokeError`] if it may still be in reach; the component has failed then.
    pub fn memory_went(&mut self, gone: &[Range<u64>]) -> Result<(), RevokeError> {
        self.memory_changed = true;
        let Err(error) = self.state().revoke(gone) else {
            return Ok(());
        };
        self.fail(Failure::because(&error.to_string()));
        self.note_failure();
        if error.in_reach { Err(error) } else { Ok(()) }
    }

    /// Handles that a region of guest memory of this size was mapped: windows that lost their memory
    /// may have it back.
    pub fn memory_came(&mut self, size: u64) {
        self.memory_changed = true;
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

    /// Stops waiting for guest memory to come back: reports to the component the windows that lost
    /// theirs, whose queues then fail by themselves.
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

    /// Maps the component's windows to the current guest memory.
    pub(super) fn show_windows(&mut self) {
        if let Some(instance) = self.instance() {
            // The caller handles this failure like any other.
            let _ = instance.show_windows();
        }
    }

    /// Notes that packets may be waiting at every port.
    pub(super) fn wake_all(&mut self) {
        self.state().ports.iter_mut().for_each(PortState::wake_all);
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

    /// Returns to the power-on state, with the current ports and guest memory.
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
        self.recovers_with_memory = false;
        let reset = self.instance().map(Instance::reset);
        if matches!(reset, Some(Ok(()))) {
            // Revoke what the component did not give up itself.
            let state = self.state();
            state.changed = false;
            state.ports.iter_mut().for_each(PortState::reset);
        } else {
            self.begin_again();
        }
    }
}

pub(super) fn port_configs(state: &HostState) -> Vec<PortConfig> {
    state.ports.iter().map(PortState::config).collect()
}
