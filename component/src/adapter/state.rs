//! Saving and restoring the whole adapter.

use super::Device;
use crate::adapter::smc::Smc;
use crate::gdma::queues::spare::Spare;
use crate::gdma::regions::DmaRegions;
use crate::hwc::Hwc;
use crate::state::State;
use device_kit::FaultCounter;
use device_kit::envelope::{RestoreError, ensure};
use device_kit::platform::Platform;

impl<P: Platform> Device<P> {
    /// The whole state, between two calls.
    pub(super) fn saved(&self) -> State {
        let waiting = self.nic.waiting.iter();
        let waiting = waiting.filter_map(|key| self.nic.handle_of(*key));
        State {
            shared_memory: *self.smc.bytes(),
            doorbell_low: self.doorbell_low,
            hwc: self.hwc.as_ref().map(Hwc::save),
            hwc_waiting: self.hwc_waiting,
            waiting: waiting.collect(),
            regions: self.regions.save(),
            queues: self.queues.save(),
            nic: self.nic.save(),
            stray_accesses: self.stray_accesses.count(),
        }
    }

    /// Goes on where a saved device was. May be repeated with a newer state as
    /// long as nothing else is called: what was laid for the earlier one, and
    /// is wanted still, stays as it is.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the device is as it was after `configure`.
    pub(super) fn restore_state(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let pristine = self.hwc.is_none() && self.queues.is_empty();
        if self.nic.vports.is_empty() || !(pristine || self.rehearsed) {
            return Err(RestoreError::NotConfigured);
        }
        let mut spare = self.queues.set_aside();
        self.forget();
        let state = State::from_bytes(state);
        let restored = state.and_then(|state| self.take_over(&state, &mut spare));
        spare.release(&mut self.platform);
        if restored.is_err() {
            self.reset_registers();
            self.forget();
            self.regions = DmaRegions::default();
        }
        self.rehearsed = restored.is_ok();
        restored
    }

    fn take_over(&mut self, state: &State, spare: &mut Spare) -> Result<(), RestoreError> {
        self.regions = DmaRegions::restore(&state.regions)?;
        let regions = &mut self.regions;
        self.queues
            .restore(&mut self.platform, regions, spare, &state.queues)?;
        let hwc = state.hwc.as_ref();
        self.hwc = hwc
            .map(|hwc| Hwc::restore(&mut self.queues, &mut self.regions, hwc))
            .transpose()?;
        let channel_cq = state.hwc.as_ref().map(|hwc| hwc.queues[1]);
        self.nic.restore(&mut self.queues, channel_cq, &state.nic)?;
        for handle in &state.waiting {
            let (key, _) = self.nic.object(*handle).ok_or(RestoreError::Malformed(
                "an object that does not exist waits",
            ))?;
            ensure(!self.nic.waiting.contains(&key), "an object waits twice")?;
            self.nic.waiting.push(key);
        }
        self.smc = Smc::from_bytes(state.shared_memory);
        self.doorbell_low = state.doorbell_low;
        self.hwc_waiting = state.hwc_waiting;
        self.stray_accesses = FaultCounter::from_count(state.stray_accesses);
        Ok(())
    }
}
