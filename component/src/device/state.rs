//! Saving and restoring the whole adapter.

use alloc::vec::Vec;

use super::Device;
use crate::dma_region::DmaRegions;
use crate::hwc::Hwc;
use crate::platform::{FaultCounter, Platform};
use crate::saved::{RestoreError, State, ensure};
use crate::smc::Smc;

impl<P: Platform> Device<P> {
    /// The whole state, between two calls.
    pub fn save(&self) -> Vec<u8> {
        let waiting = self
            .waiting
            .iter()
            .filter_map(|key| self.nic.handle_of(*key));
        let state = State {
            shared_memory: *self.smc.bytes(),
            doorbell_low: self.doorbell_low,
            hwc: self.hwc.as_ref().map(Hwc::save),
            hwc_waiting: self.hwc_waiting,
            waiting: waiting.collect(),
            regions: self.regions.save(),
            queues: self.queues.save(),
            nic: self.nic.save(),
            stray_accesses: self.stray_accesses.count(),
        };
        state.to_bytes()
    }

    /// Goes on where a saved device was.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the device is as it was after `configure`.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let pristine = self.hwc.is_none() && self.queues.is_empty();
        if self.nic.vports.is_empty() || !pristine {
            return Err(RestoreError::NotConfigured);
        }
        let state = State::from_bytes(state)?;
        let restored = self.take_over(&state);
        if restored.is_err() {
            self.forget();
            self.regions = DmaRegions::default();
        }
        restored
    }

    fn take_over(&mut self, state: &State) -> Result<(), RestoreError> {
        self.regions = DmaRegions::restore(&state.regions)?;
        self.queues
            .restore(&mut self.platform, &mut self.regions, &state.queues)?;
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
            ensure(!self.waiting.contains(&key), "an object waits twice")?;
            self.waiting.push(key);
        }
        self.smc = Smc::from_bytes(state.shared_memory);
        self.doorbell_low = state.doorbell_low;
        self.hwc_waiting = state.hwc_waiting;
        self.stray_accesses = FaultCounter::from_count(state.stray_accesses);
        Ok(())
    }
}
