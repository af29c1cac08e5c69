//! The whole adapter: BAR 0, and what a write to it sets going.

use crate::bnic::objects::WqObject;
use crate::bnic::{MAX_VPORTS, Nic, rx, tx};
use crate::gdma::queues::Queues;
use crate::gdma::regions::DmaRegions;
use crate::gdma::wq::Client;
use crate::hwc::{Context, Hwc};
use alloc::vec::Vec;
use device_kit::Adapter;
use device_kit::FaultCounter;
use device_kit::adapter::{ConfigureError, Description, PortConfig};
use device_kit::envelope::RestoreError;
use device_kit::platform::{DeviceEvent, Level, Observations, Platform, RxPacket, TxCompletion};
use device_kit::window::Window;
use mana_wire::queue::{QueueType, RingDoorbell, WqDoorbell, doorbell};
use mana_wire::registers::{self, DOORBELLS, SHARED_MEMORY, SHARED_MEMORY_END};
use mana_wire::smc as wire_smc;
use smc::Smc;

mod identity;
mod inspect;
mod recover;
pub mod smc;
mod state;

/// Requests answered before other work gets a turn.
const HWC_BUDGET: usize = 64;

/// The adapter.
#[derive(Debug)]
pub struct Device<P> {
    platform: P,
    queues: Queues,
    regions: DmaRegions,
    nic: Nic,
    hwc: Option<Hwc>,
    smc: Smc,
    /// Low half of a doorbell that is written in two halves.
    doorbell_low: Option<(u64, u32)>,
    hwc_waiting: bool,
    /// Recovered, and not yet looked at everything.
    recovered: bool,
    /// Restored, and nothing else since: a newer state may follow.
    rehearsed: bool,
    /// Reads and writes of BAR 0 that hit nothing.
    stray_accesses: FaultCounter,
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
            nic: Nic::default(),
            hwc: None,
            smc: Smc::default(),
            doorbell_low: None,
            hwc_waiting: false,
            recovered: false,
            rehearsed: false,
            stray_accesses: FaultCounter::default(),
        }
    }

    fn platform(&mut self) -> &mut P {
        &mut self.platform
    }

    fn configure(&mut self, ports: &[PortConfig]) -> Result<(), ConfigureError> {
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
        self.nic = Nic::new(ports.iter().copied());
        Ok(())
    }

    fn read_register(&self, bar: u8, offset: u64, width: u8) -> u64 {
        if bar != 0 {
            return 0;
        }
        let width = usize::from(width.min(8));
        if (SHARED_MEMORY..SHARED_MEMORY_END).contains(&offset) {
            return self.smc.read((offset - SHARED_MEMORY) as usize, width);
        }
        let map = registers::map();
        let mut value = [0; 8];
        let bytes = map
            .iter()
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
            .take(width);
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    }

    fn write_register(&mut self, bar: u8, offset: u64, width: u8, value: u64) -> bool {
        if bar == 0 {
            self.write_bar0(offset, width, value);
        }
        self.finish()
    }

    fn service(&mut self) -> bool {
        if core::mem::take(&mut self.recovered) {
            self.look_at_everything();
        }
        if core::mem::take(&mut self.hwc_waiting) {
            self.process_hwc();
        }
        for key in core::mem::take(&mut self.nic.waiting) {
            self.process_nic(key);
        }
        self.finish()
    }

    fn received(&mut self, port: u32, queue: u32, packets: &[RxPacket]) -> bool {
        if let Some(key) = self.nic.receive_object(port as usize, queue) {
            rx::received(&mut self.context(), key, packets);
        }
        self.finish()
    }

    fn transmitted(&mut self, port: u32, queue: u32, done: &[TxCompletion]) -> bool {
        if let Some(key) = self.nic.send_object(port as usize, queue) {
            tx::transmitted(&mut self.context(), key, done);
        }
        self.finish()
    }

    fn link_changed(&mut self, port: u32, up: bool) {
        let Some(vport) = self.nic.vports.get_mut(port as usize) else {
            return;
        };
        if core::mem::replace(&mut vport.config.link_up, up) == up {
            return;
        }
        let (hwc, mut ctx) = self.split();
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
        self.saved().to_bytes()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        self.restore_state(state)
    }

    fn recover(&mut self, state: &[u8], seen: &Observations) -> Result<(), RestoreError> {
        self.recover_from(state, seen)
    }

    fn announce(&mut self, event: DeviceEvent) {
        match event {
            DeviceEvent::ResetRequest => self.request_reset(),
            // The hardware channel has no event of these kinds yet.
            DeviceEvent::Service | DeviceEvent::Reconfigure => {}
        }
    }

    fn inspect(&self) -> Vec<u8> {
        serde_json::to_vec(&self.tree()).unwrap_or_default()
    }
}

impl<P: Platform> Device<P> {
    /// Gives the platform back, without the device's windows; what the host
    /// holds for the device stays.
    pub fn into_platform(mut self) -> P {
        self.forget();
        self.platform
    }

    fn write_bar0(&mut self, offset: u64, width: u8, value: u64) {
        match (offset, width) {
            (SHARED_MEMORY..SHARED_MEMORY_END, 1 | 2 | 4 | 8) => {
                let at = (offset - SHARED_MEMORY) as usize;
                if let Some(header) = self.smc.write(at, width.into(), value) {
                    self.shared_memory_request(header);
                }
            }
            (DOORBELLS.., 8) => self.ring(offset - DOORBELLS, value),
            (DOORBELLS.., 4) => self.ring_half(offset - DOORBELLS, value as u32),
            _ => self.stray(offset, width),
        }
    }

    fn reset_registers(&mut self) {
        self.smc = Smc::default();
        self.doorbell_low = None;
    }

    fn end_hwc(&mut self) {
        crate::bnic::objects::destroy_all(&mut self.context());
        self.forget();
    }

    /// Forgets all that a driver set up; what the host holds for it stays.
    fn forget(&mut self) {
        self.hwc = None;
        self.hwc_waiting = false;
        self.recovered = false;
        self.rehearsed = false;
        self.queues.clear(&mut self.platform);
        self.regions.clear();
        self.nic.reset();
    }

    fn context(&mut self) -> Context<'_, P> {
        self.split().1
    }

    fn split(&mut self) -> (Option<&mut Hwc>, Context<'_, P>) {
        let Self {
            platform,
            queues,
            regions,
            nic,
            hwc,
            ..
        } = self;
        (
            hwc.as_mut(),
            Context {
                platform,
                queues,
                regions,
                nic,
            },
        )
    }

    /// Ends every call: tells the driver what happened, once.
    #[inline]
    fn finish(&mut self) -> bool {
        self.rehearsed = false;
        self.queues.flush(&mut self.platform);
        self.hwc_waiting || self.recovered || !self.nic.waiting.is_empty()
    }

    fn shared_memory_request(&mut self, header: wire_smc::Header) {
        let result = smc::check(header).and_then(|()| match header.msg_type() {
            wire_smc::ESTABLISH_HWC => self.establish(header),
            wire_smc::DESTROY_HWC => {
                self.end_hwc();
                Ok(())
            }
            _ => {
                self.report_timeout();
                Ok(())
            }
        });
        let status = result.err().unwrap_or(wire_smc::Status::Success);
        if status != wire_smc::Status::Success {
            self.platform.log(
                Level::Warn,
                format_args!(
                    "shared-memory request {} failed: {status:?}",
                    header.msg_type()
                ),
            );
        }
        self.smc.respond(header, status);
        self.platform.changed();
    }

    fn establish(&mut self, header: wire_smc::Header) -> Result<(), wire_smc::Status> {
        if header.reset_vf() {
            self.end_hwc();
        }
        if self.hwc.is_some() {
            return Err(wire_smc::Status::AlreadyEstablished);
        }
        let message =
            wire_smc::EstablishHwc::unpack(self.smc.bytes()).ok_or(wire_smc::Status::BadAddress)?;
        match Hwc::establish(&mut self.context(), &message) {
            Ok(hwc) => {
                self.hwc = Some(hwc);
                Ok(())
            }
            Err(status) => {
                self.queues.clear(&mut self.platform);
                Err(status)
            }
        }
    }

    fn report_timeout(&mut self) {
        self.platform.log(
            Level::Warn,
            format_args!("the driver reports that a request was not answered in time"),
        );
        let (hwc, mut ctx) = self.split();
        if let Some(hwc) = hwc {
            hwc.channel.extend_timeout(&mut ctx);
        }
    }

    /// A doorbell written in two halves: the upper one rings.
    fn ring_half(&mut self, offset: u64, half: u32) {
        if offset.is_multiple_of(8) {
            self.doorbell_low = Some((offset, half));
            return;
        }
        match self.doorbell_low.take() {
            Some((at, low)) if at.checked_add(4) == Some(offset) => {
                self.ring(at, u64::from(low) | u64::from(half) << 32);
            }
            _ => self.stray(DOORBELLS + offset, 4),
        }
    }

    fn ring(&mut self, offset: u64, value: u64) {
        match offset {
            doorbell::SQ => self.ring_sq(WqDoorbell::from_bits(value)),
            doorbell::RQ => self.ring_rq(WqDoorbell::from_bits(value)),
            doorbell::RQ_CLIENT_DATA => {}
            doorbell::CQ => {
                let bell = RingDoorbell::from_bits(value);
                self.queues
                    .ring_cq(&mut self.platform, bell.id(), bell.tail(), bell.arm());
            }
            doorbell::EQ => {
                let bell = RingDoorbell::from_bits(value);
                let id = bell.id() & 0xffff;
                self.queues
                    .ring_eq(&mut self.platform, id, bell.tail(), bell.arm());
            }
            _ => self.stray(DOORBELLS + offset, 8),
        }
    }

    fn ring_sq(&mut self, bell: WqDoorbell) {
        let wq = self.queues.sq(bell.id());
        let rung = wq.and_then(|wq| wq.ring_doorbell(bell.tail()).then_some(wq.client));
        let Some(client) = rung else {
            return self.bad_doorbell("SQ", bell);
        };
        match client {
            Client::Hwc => self.process_hwc(),
            Client::Nic(key) => self.process_nic(key),
            Client::None => {}
        }
    }

    fn ring_rq(&mut self, bell: WqDoorbell) {
        let wq = self.queues.rq(bell.id());
        let rung = wq.and_then(|wq| wq.ring_doorbell(bell.tail()).then_some(wq.client));
        let Some(client) = rung else {
            return self.bad_doorbell("RQ", bell);
        };
        match client {
            Client::Hwc => self.process_hwc(),
            Client::Nic(key) => self.process_nic(key),
            Client::None => {}
        }
    }

    fn process_hwc(&mut self) {
        let (Some(hwc), mut ctx) = self.split() else {
            return;
        };
        let more = hwc.process(&mut ctx, HWC_BUDGET);
        if hwc.changed {
            ctx.platform.changed();
        }
        self.hwc_waiting = more;
    }

    fn process_nic(&mut self, key: usize) {
        match self.nic.objects.get(key).map(WqObject::queue_type) {
            Some(QueueType::Sq) => tx::process(&mut self.context(), key),
            Some(QueueType::Rq) => rx::post_buffers(&mut self.context(), key),
            _ => {}
        }
    }

    fn bad_doorbell(&mut self, what: &str, bell: WqDoorbell) {
        self.queues
            .bad_doorbell(&mut self.platform, what, bell.id(), bell.tail());
    }

    fn stray(&mut self, offset: u64, width: u8) {
        if self.stray_accesses.hit() {
            self.platform.log(
                Level::Debug,
                format_args!("ignored a write of {width} bytes at {offset:#x} of BAR 0"),
            );
        }
    }
}
