//! The device's lifecycle: establishing and ending the channel, save, restore and
//! recovery.

use alloc::vec::Vec;

use device_kit::FaultCounter;
use device_kit::adapter::PortConfig;
use device_kit::envelope::RestoreError;
use device_kit::platform::{Level, Observations, Platform};
use mana_wire::smc::{DESTROY_HWC, ESTABLISH_HWC, EstablishHwc, Header, SmcStatus};

use super::requests::Requests;
use super::smc::{self, Smc};
use super::{Device, Parts, Phase};
use crate::gdma::regions::DmaRegions;
use crate::gdma::resources::Registration;
use crate::gdma::spare::Spare;
use crate::hwc::Hwc;
use crate::hwc::channel::Channel;
use crate::recovery::{self, Unsaved};
use crate::state::State;

impl<P: Platform> Device<P> {
    /// Acts on a request over the shared-memory channel.
    pub(super) fn shared_memory_request(&mut self, header: Header) {
        let result = smc::check(header).and_then(|()| match header.msg_type() {
            ESTABLISH_HWC => self.establish(header),
            DESTROY_HWC => {
                self.end_hwc();
                Ok(())
            }
            _ => {
                self.report_timeout();
                Ok(())
            }
        });
        let status = result.err().unwrap_or(SmcStatus::Success);
        if status != SmcStatus::Success {
            let request = header.msg_type();
            self.platform.log(
                Level::Warn,
                format_args!("shared-memory request {request} failed: {status:?}"),
            );
        }
        self.smc.respond(header, status);
        self.platform.changed();
    }

    /// Establishes a channel. An existing one belongs to a driver that no longer runs,
    /// such as that of a crashed kernel: all of it is ended first, so that nothing is
    /// written to its memory afterwards.
    fn establish(&mut self, header: Header) -> Result<(), SmcStatus> {
        let message = EstablishHwc::unpack(self.smc.bytes()).ok_or(SmcStatus::BadAddress)?;
        let Parts { mut ctx, .. } = self.parts();
        Channel::check(&mut ctx, &message)?;
        if header.reset_vf() || self.hwc.is_some() {
            self.end_hwc();
        }
        let Parts { mut ctx, .. } = self.parts();
        let channel = Channel::establish(&mut ctx, &message);
        self.hwc = Some(Hwc::new(channel));
        Ok(())
    }

    fn report_timeout(&mut self) {
        self.platform.log(
            Level::Warn,
            format_args!("the driver reports that a request timed out"),
        );
        let Parts { mut ctx, hwc, .. } = self.parts();
        if let Some(hwc) = hwc {
            hwc.channel.extend_timeout(&mut ctx);
        }
    }

    pub(super) fn reset_registers(&mut self) {
        self.smc = Smc::default();
        self.doorbell_low = None;
    }

    /// Ends the channel, and all that a driver set up over it.
    pub(super) fn end_hwc(&mut self) {
        let Parts { mut ctx, nic, .. } = self.parts();
        nic.destroy_all(&mut ctx);
        self.forget();
    }

    /// Forgets all that a driver set up; buffers and packets that the host holds stay
    /// with it.
    pub(super) fn forget(&mut self) {
        self.hwc = None;
        self.hwc_waiting = false;
        self.phase = Phase::Running;
        self.queues.clear(&mut self.platform);
        self.regions.clear();
        self.registration = Registration::None;
        self.nic.reset();
    }

    /// Returns the state to be saved, between two calls.
    pub(super) fn state(&self) -> State {
        State {
            shared_memory: *self.smc.bytes(),
            doorbell_low: self.doorbell_low,
            hwc: self.hwc.as_ref().map(Hwc::save),
            hwc_waiting: self.hwc_waiting,
            waiting: self.nic.save_waiting(),
            regions: self.regions.save(),
            queues: self.queues.save(),
            nic: self.nic.save(self.registration),
            stray_accesses: self.stray_accesses.count(),
        }
    }

    /// Continues where a saved device was. May be repeated with a newer state as long
    /// as nothing else is called: windows that were mapped for the earlier one, and are
    /// still needed, stay as they are.
    pub(super) fn restore_from(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let is_pristine = self.hwc.is_none() && self.queues.is_empty();
        let may_follow = is_pristine || self.phase == Phase::Rehearsed;
        if self.nic.vports.is_empty() || !may_follow {
            return Err(RestoreError::NotConfigured);
        }
        let ports = self.nic.vports.iter().map(|vport| vport.port.config);
        let ports: Vec<PortConfig> = ports.collect();
        let checked = State::from_bytes(bytes).and_then(|state| {
            state.check(&ports)?;
            Ok(state)
        });
        let mut spare = self.queues.set_aside();
        self.forget();
        match checked {
            Ok(state) => {
                self.resume(&state, &mut spare);
                spare.release(&mut self.platform);
                Ok(())
            }
            Err(error) => {
                spare.release(&mut self.platform);
                self.reset_registers();
                self.regions = DmaRegions::default();
                Err(error)
            }
        }
    }

    /// Builds the device from a state that was checked.
    fn resume(&mut self, state: &State, spare: &mut Spare) {
        self.regions = DmaRegions::resume(&state.regions);
        let (platform, regions) = (&mut self.platform, &mut self.regions);
        self.queues.resume(platform, regions, spare, &state.queues);
        if let Some(hwc) = &state.hwc {
            self.hwc = Some(Hwc::resume(&mut self.queues, &mut self.regions, hwc));
        }
        if state.nic.registered {
            self.registration = Registration::Registered;
        }
        self.nic
            .resume(&mut self.queues, &state.nic, &state.waiting);
        self.smc = Smc::from_bytes(state.shared_memory);
        self.doorbell_low = state.doorbell_low;
        self.hwc_waiting = state.hwc_waiting && self.hwc.is_some();
        self.stray_accesses = FaultCounter::from_count(state.stray_accesses);
        self.phase = Phase::Rehearsed;
    }

    /// Continues where a device that failed after it was saved had got to: see
    /// [`recovery`]. Work is left afterwards.
    pub(super) fn recover_from(
        &mut self,
        state: &[u8],
        seen: &Observations,
    ) -> Result<(), RestoreError> {
        self.restore_from(state)?;
        let Parts { ctx, nic, hwc } = self.parts();
        let unsaved = recovery::recover(ctx.platform, ctx.queues, nic, hwc.as_deref(), seen);
        self.phase = Phase::Recovered(unsaved);
        Ok(())
    }

    /// Works on every queue, whether or not a doorbell rings, after a recovery.
    pub(super) fn look_at_everything(&mut self, unsaved: Option<Unsaved>) {
        let Parts { mut ctx, nic, hwc } = self.parts();
        if let Some(hwc) = hwc {
            if let Some(Unsaved { position, end }) = unsaved {
                hwc.replay(&mut ctx, &mut Requests { nic }, position, end);
            }
            ctx.platform.changed();
        }
        self.hwc_waiting = self.hwc.is_some();
        let Parts { mut ctx, nic, .. } = self.parts();
        nic.tell_again(&mut ctx);
        nic.process_all(&mut ctx);
    }
}
