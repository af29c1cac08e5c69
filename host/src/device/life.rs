//! The lifecycle of a device beyond a single instance: fresh instances after a reset
//! and after a failure.

use std::time::{Duration, Instant};

use super::inner::{DeviceInner, InstanceState, port_configs};
use super::recovery::Next;
use super::report::{Event, SwapReport};
use super::swap::version;
use crate::contract::{DeviceEvent, Observations, PortConfig};
use crate::runtime::{Failure, HostState, Instance, Limits, PortState};

impl DeviceInner {
    /// Continues with a fresh instance after a reset that failed, or that found the instance failed.
    pub(super) fn begin_again(&mut self) {
        if let Some(failure) = self.failure().cloned()
            && !self.down
        {
            self.count_failure(&failure, None);
            self.go_back_if_in_probation();
        }
        self.recoverer.forget();
        self.restart();
    }

    /// Ends the device for good, after a panic of the host's own code at any point.
    pub(super) fn end(&mut self, failure: Failure) {
        (self.down, self.ended) = (true, true);
        match &mut self.life {
            InstanceState::Running(instance) => instance.fail(failure),
            InstanceState::Dead(_, reason) => *reason = failure,
            InstanceState::Between => match HostState::vacant(Limits::default()) {
                Ok(state) => self.life = InstanceState::Dead(Box::new(state), failure),
                Err(error) => unreachable!("a function without BARs is one: {error}"),
            },
        }
    }

    /// Replaces the instance by a fresh one at power-on.
    fn restart(&mut self) {
        if self.ended {
            return;
        }
        let mut state = self.take_state();
        state.abandon_instance();
        state.ports.iter_mut().for_each(PortState::reset);
        self.down = false;
        self.restarts += 1;
        state.stale = true;
        if let Some(dropped) = state.notices.pass() {
            let name = self.component.name();
            tracing::info!(dropped, "starting a fresh instance of {name}");
        }
        let ports = port_configs(&state);
        self.life = match Instance::new(self.component.code(), state) {
            Ok(mut instance) => {
                let configured = instance.configure(&ports);
                if let Ok(Err(refused)) = configured
                    && instance.state().notices.pass().is_some()
                {
                    tracing::error!("the fresh instance refuses its ports: {refused:?}");
                }
                InstanceState::Running(Box::new(instance))
            }
            Err((failure, mut state)) => {
                if state.notices.pass().is_some() {
                    tracing::error!("{failure}");
                }
                self.tell_down(&failure);
                InstanceState::Dead(state, failure)
            }
        };
    }

    fn take_state(&mut self) -> HostState {
        match std::mem::replace(&mut self.life, InstanceState::Between) {
            InstanceState::Running(instance) => instance.into_state(),
            InstanceState::Dead(state, _) => *state,
            InstanceState::Between => {
                unreachable!("a device is between lives only while one is made")
            }
        }
    }

    /// Handles a call's effects: takes a checkpoint if the configuration changed, and continues
    /// with a fresh instance if the component failed.
    pub(super) fn note_failure(&mut self) {
        let InstanceState::Running(instance) = &mut self.life else {
            return;
        };
        if self.down {
            return;
        }
        if let Some(lost) = instance.state_ref().lost_memory() {
            return self.give_up(Failure::because(&lost));
        }
        if instance.failure().is_none() {
            self.recoverer.succeeded();
            if !std::mem::take(&mut instance.state().changed) {
                return;
            }
            if let Ok(state) = instance.save() {
                self.recoverer.keep(state);
                self.preserve();
                self.state().stale = true;
                return;
            }
        }
        self.recover();
    }

    /// Takes the device down until it is reset, because it can't continue correctly.
    fn give_up(&mut self, failure: Failure) {
        if let Some(dropped) = self.state().notices.pass() {
            tracing::error!(dropped, "{failure}; the device is down until it is reset");
        }
        self.recoverer.failures += 1;
        self.tell_crash(&failure);
        self.tell_down(&failure);
        self.down = true;
        self.state().abandon_instance();
        self.fail(failure);
    }

    /// Counts a failure, and returns what to do about it.
    fn count_failure(&mut self, failure: &Failure, attempt: Option<u64>) -> Next {
        let next = self.recoverer.failed(failure, attempt);
        self.tell_crash(failure);
        next
    }

    fn tell_crash(&mut self, failure: &Failure) {
        self.state().stale = true;
        self.telemetry.tell(&Event::Crashed {
            failures: self.recoverer.failures,
            reason: failure.summary(),
        });
    }

    fn tell_down(&self, failure: &Failure) {
        let reason = failure.summary();
        self.telemetry.tell(&Event::Down { reason });
    }

    /// Returns whether too little time is left for a fresh instance.
    fn is_late(&self) -> bool {
        match &self.life {
            InstanceState::Running(instance) => instance.is_late(),
            _ => false,
        }
    }

    /// Returns whether the guest has bus mastering off and may have queues in its memory, of which
    /// a fresh instance could read nothing.
    fn can_not_reach_queues(&self) -> bool {
        let function = &self.state_ref().function;
        function.has_mastered() && !function.bus_master()
    }

    /// Tries fresh instances until one continues, no more are to be tried, or the time is over.
    pub(super) fn recover(&mut self) {
        self.recovering = false;
        self.state().stale = true;
        while let Some(failure) = self.failure().cloned() {
            self.recovers_with_memory = self.can_not_reach_queues();
            if self.recovers_with_memory {
                return;
            }
            if self.is_late() {
                self.recovering = true;
                return;
            }
            let begun = Instant::now();
            let mut lost = self.state_ref().undelivered();
            lost.0 += self.state_ref().pending_transmits();
            self.work_left = false;
            let attempt = self.state().attempt;
            let mut next = self.count_failure(&failure, attempt);
            if self.go_back_if_in_probation() {
                next = self.recoverer.restart();
            }
            if self.recoverer.checkpoint.is_none() || matches!(self.life, InstanceState::Dead(..)) {
                // There is no checkpoint to continue from.
                next = Next::GiveUp;
            }
            if next == Next::GiveUp {
                self.down = true;
                self.state().abandon_instance();
                if let Some(dropped) = self.state().notices.pass() {
                    tracing::error!(dropped, "the device is down until it is reset");
                }
                self.tell_down(&failure);
                return;
            }
            match self.resume() {
                Ok(()) => {
                    let asked = next == Next::AskForReset;
                    let stands = begun.elapsed();
                    self.go_on(asked);
                    // One that fails again at once did not run any longer.
                    let failed = self.failure().is_some();
                    let took = if failed { stands } else { begun.elapsed() };
                    let recovery = self.recoverer.recovered(&failure, took, lost, asked);
                    self.telemetry.recovered(recovery);
                }
                Err(failure) => self.fail(failure),
            }
        }
    }

    /// Returns to the previous component, if the current one is in its probation. Returns whether it
    /// did.
    fn go_back_if_in_probation(&mut self) -> bool {
        let Some(previous) = self.swaps.take_probation() else {
            return false;
        };
        let swap = SwapReport {
            from: version(&self.description),
            from_digest: self.component.digest(),
            to: version(&previous.description),
            to_digest: previous.component.digest(),
            pause: Duration::ZERO,
            state_bytes: self.recoverer.checkpoint.as_ref().map_or(0, Vec::len),
            rollback: true,
        };
        self.component = previous.component;
        self.description = previous.description;
        swap.log();
        self.telemetry.swapped(&swap);
        true
    }

    /// Has a fresh instance continue from the checkpoint.
    fn resume(&mut self) -> Result<(), Failure> {
        let until = match &self.life {
            InstanceState::Running(instance) => Some(instance.stays_until()),
            _ => None,
        };
        let mut state = self.take_state();
        state.abandon_instance();
        let checkpoint = self.recoverer.checkpoint.clone().unwrap_or_default();
        let seen = self.recoverer.observations(&state);
        let ports = port_configs(&state);
        let mut instance = match Instance::new(self.component.code(), state) {
            Ok(instance) => Box::new(instance),
            Err((failure, state)) => {
                self.life = InstanceState::Dead(state, failure.clone());
                return Err(failure);
            }
        };
        if let Some(until) = until {
            instance.join_stay(until);
        }
        let resumed = resume_in(&mut instance, &ports, &checkpoint, &seen);
        self.life = InstanceState::Running(instance);
        resumed
    }

    /// Has the fresh instance process every queue before any other thread gets a turn: what the
    /// guest waits for is found here, and only here. If it fails at that, it is the next to be
    /// replaced.
    fn go_on(&mut self, ask_for_reset: bool) {
        if let Some(instance) = self.instance() {
            let more = instance.service();
            if ask_for_reset && more.is_ok() {
                let _ = instance.announce(DeviceEvent::ResetRequest);
            }
            self.work_left = more.unwrap_or(false);
        }
    }

    /// Ends an instance that is unusable although no call of it failed.
    pub(super) fn fail(&mut self, failure: Failure) {
        if let InstanceState::Running(instance) = &mut self.life {
            instance.fail(failure);
        }
    }
}

/// Lets a fresh instance take over.
fn resume_in(
    instance: &mut Instance,
    ports: &[PortConfig],
    checkpoint: &[u8],
    seen: &Observations,
) -> Result<(), Failure> {
    if let Err(refused) = instance.configure(ports)? {
        return Err(Failure::because(&format!(
            "it refuses its ports: {refused:?}"
        )));
    }
    if let Err(refused) = instance.recover(checkpoint, seen)? {
        return Err(Failure::because(&format!(
            "it refuses its own state: {refused}"
        )));
    }
    instance.take_over()
}
