//! The whole adapter: BAR 0, the shared-memory channel, and the device's lifecycle. The
//! only module that knows all others.

use alloc::vec::Vec;

use device_kit::adapter::{ConfigureError, Description, PortConfig};
use device_kit::envelope::RestoreError;
use device_kit::platform::{DeviceEvent, Features, Observations, Platform, RxPacket, TxCompletion};
use device_kit::window::Window;
use device_kit::{Adapter, FaultCounter};

use crate::bnic::Nic;
use crate::gdma::Context;
use crate::gdma::queues::Queues;
use crate::gdma::regions::DmaRegions;
use crate::gdma::resources::Registration;
use crate::hwc::Hwc;
use crate::limits::{MAX_PAIRS, MAX_QUEUES, MAX_VPORTS};
use crate::recovery::Unsaved;
use requests::Requests;
use smc::Smc;

mod identity;
mod inspect;
mod lifecycle;
mod registers;
mod requests;
pub(crate) mod smc;

/// Requests answered before other work gets a turn.
const HWC_BUDGET: usize = 64;
/// The features that the device uses if the host offers them.
const FEATURES: Features = Features::STEERING
    .union(Features::RECEIVE_HASH)
    .union(Features::RATE_LIMIT)
    .union(Features::STATISTICS)
    .union(Features::MODERATION);

/// The adapter.
#[derive(Debug)]
pub struct Device<P> {
    platform: P,
    queues: Queues,
    regions: DmaRegions,
    registration: Registration,
    nic: Nic,
    hwc: Option<Hwc>,
    smc: Smc,
    /// Offset and low half of a doorbell that is written in two halves.
    doorbell_low: Option<(u64, u32)>,
    /// Whether requests wait for their turn.
    hwc_waiting: bool,
    phase: Phase,
    /// Writes to offsets of BAR 0 where nothing is.
    stray_accesses: FaultCounter,
}

/// The phase of a device's lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It runs, or was not used yet.
    Running,
    /// It was restored, and nothing else since: a newer state may follow.
    Rehearsed,
    /// It was recovered, and has not yet looked at every queue.
    Recovered(Option<Unsaved>),
}

impl<P: Platform> Adapter<P> for Device<P> {
    fn describe() -> Description {
        identity::describe()
    }

    fn new(platform: P) -> Self {
        Self {
            platform,
            queues: Queues::default(),
            regions: DmaRegions::default(),
            registration: Registration::None,
            nic: Nic::new(Features::empty(), []),
            hwc: None,
            smc: Smc::default(),
            doorbell_low: None,
            hwc_waiting: false,
            phase: Phase::Running,
            stray_accesses: FaultCounter::default(),
        }
    }

    fn platform(&mut self) -> &mut P {
        &mut self.platform
    }

    fn into_platform(mut self) -> P {
        self.forget();
        self.platform
    }

    fn configure(
        &mut self,
        offered: Features,
        ports: &[PortConfig],
    ) -> Result<Features, ConfigureError> {
        if !self.nic.vports.is_empty() {
            return Err(ConfigureError::Repeated);
        }
        if ports.is_empty() {
            return Err(ConfigureError::NoPorts);
        }
        if ports.len() > MAX_VPORTS {
            return Err(ConfigureError::TooManyPorts);
        }
        for port in ports {
            if port.mac[0] & 1 != 0 || port.mac == [0; 6] {
                return Err(ConfigureError::InvalidMac);
            }
            if !(68..=65521).contains(&port.mtu) {
                return Err(ConfigureError::InvalidMtu);
            }
        }
        let pairs: u32 = ports.iter().map(|port| u32::from(port.queues)).sum();
        let has_room = pairs <= MAX_PAIRS.into();
        let can_be = |port: &PortConfig| (1..=MAX_QUEUES).contains(&port.queues);
        if !has_room || !ports.iter().all(can_be) {
            return Err(ConfigureError::InvalidQueues);
        }
        let used = offered & FEATURES;
        self.nic = Nic::new(used, ports.iter().copied());
        Ok(used)
    }

    fn read_register(&self, bar: u8, offset: u64, width: u8) -> u64 {
        match bar {
            0 => self.read_bar0(offset, width),
            _ => 0,
        }
    }

    fn write_register(&mut self, bar: u8, offset: u64, width: u8, value: u64) -> bool {
        if bar == 0 {
            self.write_bar0(offset, width, value);
        }
        self.finish()
    }

    fn service(&mut self) -> bool {
        if let Phase::Recovered(unsaved) = self.phase {
            self.phase = Phase::Running;
            self.look_at_everything(unsaved);
        }
        if core::mem::take(&mut self.hwc_waiting) {
            self.process_hwc();
        }
        let Parts { mut ctx, nic, .. } = self.parts();
        nic.process_waiting(&mut ctx);
        self.finish()
    }

    fn received(&mut self, port: u32, queue: u32, packets: &[RxPacket]) -> bool {
        let Parts { mut ctx, nic, .. } = self.parts();
        nic.received(&mut ctx, port, queue, packets);
        self.finish()
    }

    fn transmitted(&mut self, port: u32, queue: u32, done: &[TxCompletion]) -> bool {
        let Parts { mut ctx, nic, .. } = self.parts();
        nic.transmitted(&mut ctx, port, queue, done);
        self.finish()
    }

    fn link_changed(&mut self, port: u32, up: bool) {
        let Some(vport) = self.nic.vports.get_mut(port as usize) else {
            return;
        };
        if core::mem::replace(&mut vport.port.config.link_up, up) == up {
            return;
        }
        let Parts { mut ctx, hwc, .. } = self.parts();
        if let Some(hwc) = hwc {
            hwc.channel.link_changed(&mut ctx, up);
            ctx.platform.changed();
        }
        self.finish();
    }

    fn windows_changed(&mut self, is_named: impl Fn(&Window) -> bool, present: bool) {
        self.queues.windows_changed(is_named, present);
    }

    fn reset(&mut self) {
        self.reset_registers();
        self.end_hwc();
    }

    fn save(&self) -> Vec<u8> {
        self.state().to_bytes()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        self.restore_from(state)
    }

    fn recover(&mut self, state: &[u8], seen: &Observations) -> Result<(), RestoreError> {
        self.recover_from(state, seen)
    }

    fn announce(&mut self, event: DeviceEvent) {
        match event {
            DeviceEvent::ResetRequest => {
                let Parts { mut ctx, hwc, .. } = self.parts();
                if let Some(hwc) = hwc {
                    hwc.channel.request_reset(&mut ctx);
                }
                self.finish();
            }
            // The hardware channel has no event of these kinds yet.
            DeviceEvent::Service | DeviceEvent::Reconfigure => {}
        }
    }

    fn inspect(&self) -> Vec<u8> {
        serde_json::to_vec(&self.tree()).unwrap_or_default()
    }
}

/// The device's parts, borrowed separately.
struct Parts<'a, P> {
    ctx: Context<'a, P>,
    nic: &'a mut Nic,
    hwc: Option<&'a mut Hwc>,
}

impl<P: Platform> Device<P> {
    #[inline]
    fn parts(&mut self) -> Parts<'_, P> {
        Parts {
            ctx: Context {
                platform: &mut self.platform,
                queues: &mut self.queues,
                regions: &mut self.regions,
                registration: &mut self.registration,
            },
            nic: &mut self.nic,
            hwc: self.hwc.as_mut(),
        }
    }

    /// Ends every call: posts the events and interrupts that are due, once. Returns
    /// whether work is left.
    #[inline]
    fn finish(&mut self) -> bool {
        if self.phase == Phase::Rehearsed {
            self.phase = Phase::Running;
        }
        let host_delays = self.nic.host_delays();
        self.queues.flush(&mut self.platform, host_delays);
        self.hwc_waiting || self.phase != Phase::Running || self.nic.is_waiting()
    }

    fn process_hwc(&mut self) {
        let Parts { mut ctx, nic, hwc } = self.parts();
        let hwc = hwc.expect("the channel of a queue that it owns");
        let processed = hwc.process(&mut ctx, &mut Requests { nic }, HWC_BUDGET);
        if processed.may_have_changed {
            ctx.platform.changed();
        }
        self.hwc_waiting = processed.is_work_left;
    }
}
