//! Moves a device to another instance.

use std::time::Instant;

use super::inner::DeviceInner;
use super::report::SwapReport;
use super::swap::{Candidate, Pause, Previous, SwapError, SwapOptions, restore, version};
use crate::runtime::Instance;

/// The remains of a replacement, to be dropped once other threads may continue.
pub struct Replaced {
    _instance: Box<Instance>,
    _previous: Option<Previous>,
    _checkpoint: Option<Vec<u8>>,
}

impl DeviceInner {
    /// Moves the device to the candidate's instance. Returns what is no longer needed, for the
    /// caller to drop once other threads may continue.
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the device continues as it was.
    pub fn replace(
        &mut self,
        candidate: Candidate,
        options: SwapOptions,
        rollback: bool,
        pause: &Pause,
    ) -> Result<(SwapReport, Replaced), (SwapError, Box<Instance>)> {
        let Candidate {
            component,
            description,
            mut instance,
            ..
        } = candidate;
        let state = match self.save() {
            Ok(state) => state,
            Err(error) => return Err((error, instance)),
        };
        // Taking over happens inside the candidate, on the device's own side
        // of the host; if it fails, that goes back to where it was.
        let Some(running) = self.instance() else {
            return Err((SwapError::Busy, instance));
        };
        running.state().trade_places(instance.state());
        let restored = restore(&component, &mut instance, &state).and_then(|()| {
            let name = || component.name().to_owned();
            let taken = instance.take_over();
            taken.map_err(|failure| SwapError::Failed(name(), failure))
        });
        if let Err(error) = restored {
            running.state().trade_places(instance.state());
            return Err((error, instance));
        }
        let old_instance = self.switch_to(instance);
        let state_bytes = state.len();
        let checkpoint = self.recoverer.keep(state);
        let old = Previous {
            component: std::mem::replace(&mut self.component, component),
            description: std::mem::replace(&mut self.description, description),
            until: Instant::now()
                .checked_add(options.probation)
                .filter(|_| !options.probation.is_zero()),
        };
        let (from, to) = (version(&old.description), version(&self.description));
        let (from_digest, to_digest) = (old.component.digest(), self.component.digest());
        let replaced = Replaced {
            _instance: old_instance,
            _previous: self.swaps.previous.replace(old),
            _checkpoint: checkpoint,
        };
        let swap = SwapReport {
            from,
            from_digest,
            to,
            to_digest,
            pause: pause.until_now(),
            state_bytes,
            rollback,
        };
        self.preserve();
        self.state().stale = true;
        self.telemetry.swapped(&swap);
        Ok((swap, replaced))
    }
}
