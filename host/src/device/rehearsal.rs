//! Replaces the component in two steps: a rehearsal in parallel with the component that runs,
//! and the replacement itself, during which the guest waits.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::handle::Device;
use super::report::SwapReport;
use super::swap::{Candidate, Pause, SwapError, SwapOptions};
use crate::component::Component;
use crate::contract::{Description, PortConfig};
use crate::runtime::Limits;

/// A component that has rehearsed to take over: its instance has restored a state of the
/// device, and its windows are mapped. The device continues meanwhile; only another swap is
/// refused.
pub struct Rehearsal<'a> {
    // It is dropped before another one may begin.
    candidate: Candidate,
    change: SwapAttempt<'a>,
}

impl Device {
    /// Replaces the component while the guest continues, with a short pause. Checking and compiling
    /// `component` happens before the pause, as does the [rehearsal](Self::rehearse).
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the component that ran continues.
    pub fn swap(
        &self,
        component: &Component,
        options: SwapOptions,
    ) -> Result<SwapReport, SwapError> {
        self.rehearse(component, options)?.swap()
    }

    /// Has a component do the slow part of taking over in advance, while the current one continues.
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

    /// Returns to the component that ran before the last swap.
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the component that ran continues.
    pub fn rollback(&self) -> Result<SwapReport, SwapError> {
        let only = self.shared.swapping.try_lock().ok_or(SwapError::Busy)?;
        let previous = self.shared.own().swaps.previous.clone();
        let previous = previous.ok_or(SwapError::NoPrevious)?;
        let options = SwapOptions {
            probation: Duration::ZERO,
        };
        Rehearsal::new(self, only, &previous.component, options, true)?.swap()
    }
}

/// The state that all attempts to replace the component share.
struct SwapAttempt<'a> {
    device: &'a Device,
    /// The lock that makes it the only one.
    _only: MutexGuard<'a, ()>,
    component: Component,
    running: Arc<Description>,
    ports: Vec<PortConfig>,
    limits: Limits,
    options: SwapOptions,
    rollback: bool,
    /// The longest that the device was held so far.
    held: Duration,
}

impl<'a> Rehearsal<'a> {
    /// Makes an instance and has it rehearse.
    pub(super) fn new(
        device: &'a Device,
        only: MutexGuard<'a, ()>,
        component: &Component,
        options: SwapOptions,
        rollback: bool,
    ) -> Result<Self, SwapError> {
        let inner = device.shared.own();
        let mut change = SwapAttempt {
            device,
            _only: only,
            component: component.clone(),
            running: inner.description.clone(),
            ports: inner.ports(),
            limits: inner.state_ref().limits,
            options,
            rollback,
            held: Duration::ZERO,
        };
        drop(inner);
        let mut candidate = change.candidate()?;
        if !options.probation.is_zero() {
            candidate.check_way_back(&change.running)?;
        }
        change.rehearse(&mut candidate)?;
        Ok(Self { change, candidate })
    }

    /// Replaces the component.
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the component that ran continues.
    pub fn swap(self) -> Result<SwapReport, SwapError> {
        let Self {
            mut change,
            candidate,
        } = self;
        if let Some(swap) = change.make(candidate)? {
            return Ok(swap);
        }
        let unrehearsed = change.candidate()?;
        change.make(unrehearsed)?.ok_or(SwapError::Busy)
    }
}

impl SwapAttempt<'_> {
    fn candidate(&self) -> Result<Candidate, SwapError> {
        Candidate::new(&self.component, &self.running, &self.ports, self.limits)
    }

    /// Has the candidate restore the device's current state. The device is held only while it is
    /// saved; its memory is not unmapped until the end.
    fn rehearse(&mut self, candidate: &mut Candidate) -> Result<(), SwapError> {
        let shared = &self.device.shared;
        let _rehearsing = shared.rehearsing.lock();
        let mut inner = shared.own();
        let pause = Pause::after(self.held);
        let state = inner.save();
        inner.state().open_to(candidate.state());
        self.held = pause.until_now();
        inner.leave();
        let rehearsed = state.and_then(|state| candidate.rehearse(&state));
        candidate.state().close();
        rehearsed
    }

    /// Has the candidate take over. Returns None if it was ready and no longer is, because guest
    /// memory was unmapped since, or because it restores a state only once; the device continues
    /// unchanged, and a candidate without a rehearsal may succeed.
    fn make(&mut self, mut candidate: Candidate) -> Result<Option<SwapReport>, SwapError> {
        let rehearsed = candidate.has_rehearsed();
        // On a busy machine this thread has used up its turn by now: better that
        // it loses the processor here than while the guest waits.
        std::thread::yield_now();
        let mut inner = self.device.shared.own();
        if !Arc::ptr_eq(&inner.description, &self.running) {
            // It went back to the one before by itself, just now.
            return Err(SwapError::Busy);
        }
        if rehearsed && !inner.state().take_rehearsed(candidate.state()) {
            return Ok(None);
        }
        let pause = Pause::after(self.held);
        let replaced = inner.replace(candidate, self.options, self.rollback, &pause);
        self.held = pause.until_now();
        inner.settle();
        // The previous instance is dropped here, while the guest continues.
        match replaced {
            Ok((swap, _replaced)) => {
                swap.log();
                Ok(Some(swap))
            }
            Err((error @ (SwapError::Failed(..) | SwapError::State(..)), _)) if rehearsed => {
                tracing::info!("{error}, after a rehearsal; once more without");
                Ok(None)
            }
            Err((error, _)) => Err(error),
        }
    }
}

impl std::fmt::Debug for Rehearsal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rehearsal")
            .field("component", &self.change.component.name())
            .finish_non_exhaustive()
    }
}
