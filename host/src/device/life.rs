//! The life of a device beyond that of one instance: fresh ones after a reset
//! and after a failure.

use std::time::{Duration, Instant};

use super::body::{Body, Life, port_configs};
use super::recovery::Next;
use super::swap::{RestoreText, Swap, version};
use crate::bindings::exports::manatee::device::device::{Observations, PortConfig};
use crate::runtime::{Failure, HostState, Instance};

impl Body {
    /// A fresh instance at power-on.
    pub(super) fn restart(&mut self) {
        let mut state = self.take_state();
        state.abandon_instance();
        self.restarts += 1;
        tracing::info!("starting a fresh instance of {}", self.component.name());
        let ports = port_configs(&state);
        self.life = match Instance::new(self.component.pre(), state) {
            Ok(mut instance) => {
                let configured = instance.configure(&ports);
                if let Ok(Err(refused)) = configured {
                    tracing::error!("the fresh instance refuses its ports: {refused:?}");
                }
                Life::Running(Box::new(instance))
            }
            Err((failure, state)) => {
                tracing::error!("{failure}");
                Life::Dead(state, failure)
            }
        };
    }

    fn take_state(&mut self) -> HostState {
        match std::mem::replace(&mut self.life, Life::Between) {
            Life::Running(instance) => instance.into_state(),
            Life::Dead(state, _) => *state,
            Life::Between => unreachable!("a device is between lives only while one is made"),
        }
    }

    /// After each call: takes a checkpoint if the configuration changed, and
    /// goes on with a fresh instance if the component failed.
    pub(super) fn note_failure(&mut self) {
        let Life::Running(instance) = &mut self.life else {
            return;
        };
        if instance.failure().is_none() {
            self.recoverer.succeeded();
            if !std::mem::take(&mut instance.state().changed) {
                return;
            }
            if let Ok(state) = instance.save() {
                self.recoverer.checkpoint = Some(state);
                return;
            }
        }
        self.recover();
    }

    /// Tries fresh instances until one goes on, or no more are to be tried.
    fn recover(&mut self) {
        let begun = Instant::now();
        let mut lost = self.state_ref().undelivered();
        while let Life::Running(instance) = &mut self.life {
            let Some(failure) = instance.failure().cloned() else {
                return;
            };
            let attempt = instance.state().attempt;
            self.work_left = false;
            let mut next = self.recoverer.failed(&failure, attempt);
            if self.recoverer.checkpoint.is_none() {
                // No driver has set anything up that could go on.
                next = Next::GiveUp;
            }
            lost.0 += instance.state().pending_transmits();
            if next == Next::GiveUp {
                instance.state().abandon_instance();
                tracing::error!("the device is down until it is reset");
                return;
            }
            self.go_back_if_in_probation();
            match self.resume(next) {
                Ok(()) => {
                    self.work_left = true;
                    let asked = next == Next::AskForReset;
                    return self.recoverer.recovered(&failure, begun, lost, asked);
                }
                Err(failure) => self.fail(failure),
            }
        }
    }

    /// In its probation a component that fails makes way for the one before.
    fn go_back_if_in_probation(&mut self) {
        let Some(previous) = self.swaps.take_probation() else {
            return;
        };
        let swap = Swap {
            from: version(&self.description),
            to: version(&previous.description),
            pause: Duration::ZERO,
            state_bytes: self.recoverer.checkpoint.as_ref().map_or(0, Vec::len),
            rollback: true,
        };
        self.component = previous.component;
        self.description = previous.description;
        self.swaps.note(swap);
    }

    /// Has a fresh instance go on from the checkpoint.
    fn resume(&mut self, next: Next) -> Result<(), Failure> {
        let mut state = self.take_state();
        state.abandon_instance();
        let checkpoint = self.recoverer.checkpoint.clone().unwrap_or_default();
        let seen = self.recoverer.observations(&state);
        let ports = port_configs(&state);
        let mut instance = match Instance::new(self.component.pre(), state) {
            Ok(instance) => Box::new(instance),
            Err((failure, state)) => {
                self.life = Life::Dead(state, failure.clone());
                return Err(failure);
            }
        };
        let resumed = resume_in(&mut instance, &ports, &checkpoint, &seen, next);
        self.life = Life::Running(instance);
        resumed
    }

    /// The instance is of no use, although no call of it failed.
    fn fail(&mut self, failure: Failure) {
        if let Life::Running(instance) = &mut self.life {
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
    next: Next,
) -> Result<(), Failure> {
    if let Err(refused) = instance.configure(ports)? {
        return Err(Failure::because(&format!(
            "it refuses its ports: {refused:?}"
        )));
    }
    if let Err(refused) = instance.recover(checkpoint, seen)? {
        let refused = RestoreText(refused);
        return Err(Failure::because(&format!(
            "it refuses its own state: {refused}"
        )));
    }
    match next {
        Next::AskForReset => instance.request_reset(),
        Next::Recover | Next::GiveUp => Ok(()),
    }
}
