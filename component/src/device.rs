//! The whole adapter: BAR 0, and what a write to it sets going.

use crate::dma_region::DmaRegions;
use crate::hwc::{Context, Hwc};
use crate::nic::objects::WqObject;
use crate::nic::{MAX_VPORTS, Nic, PortConfig, rx, tx};
use crate::platform::{FaultCounter, Level, Platform, RxPacket, TxCompletion};
use crate::queues::Queues;
use crate::smc::{self, Smc};
use crate::window::Window;
use crate::wire::queue::{QueueType, RingDoorbell, WqDoorbell, doorbell};
use crate::wire::smc as wire_smc;
use crate::wq::Client;

mod inspect;
mod recover;
mod state;

/// Size of BAR 0: a page of registers and a page of doorbells.
pub const BAR0_SIZE: u64 = 0x2000;
/// Where the shared-memory channel lies (`GDMA_REG_SHM_OFFSET` says so).
const SHARED_MEMORY: u64 = 0x40;
const SHARED_MEMORY_END: u64 = SHARED_MEMORY + wire_smc::APERTURE as u64;
/// Where the doorbell page lies (`GDMA_REG_DB_PAGE_OFFSET` says so).
pub const DOORBELLS: u64 = 0x1000;
/// Its size in bytes.
pub const DOORBELL_PAGE_SIZE: u64 = 0x1000;
/// Version of the register map: major, minor, micro.
const REGISTERS_VERSION: (u8, u8, u16) = (1, 0, 1);
/// Requests answered before other work gets a turn.
const HWC_BUDGET: usize = 64;

/// Why a configuration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigureError {
    /// At least one port is needed.
    NoPorts,
    /// More than [`MAX_VPORTS`].
    TooManyPorts,
    /// A MAC address is multicast or zero.
    InvalidMac,
    /// An MTU is less than 68 or more than 65521.
    InvalidMtu,
    /// It is configured already.
    Repeated,
}

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

impl<P: Platform> Device<P> {
    /// An adapter without ports.
    pub fn new(platform: P) -> Self {
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

    /// Gives the adapter its ports.
    ///
    /// # Errors
    ///
    /// See [`ConfigureError`]; nothing changes.
    pub fn configure(&mut self, ports: &[PortConfig]) -> Result<(), ConfigureError> {
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

    /// The platform, for whoever made it.
    pub fn platform(&mut self) -> &mut P {
        &mut self.platform
    }

    /// Gives the platform back, without the device's windows; what the host
    /// holds for the device stays.
    pub fn into_platform(mut self) -> P {
        self.forget();
        self.platform
    }

    /// Reads 1, 2, 4 or 8 bytes of BAR 0. What does not exist reads as zero.
    pub fn read_register(&self, offset: u64, width: u8) -> u64 {
        let width = usize::from(width.min(8));
        if (SHARED_MEMORY..SHARED_MEMORY_END).contains(&offset) {
            return self.smc.read((offset - SHARED_MEMORY) as usize, width);
        }
        let map = register_map();
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

    /// Writes 1, 2, 4 or 8 bytes of BAR 0 and does what that sets going. True
    /// if work is left for [`service`](Self::service).
    pub fn write_register(&mut self, offset: u64, width: u8, value: u64) -> bool {
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
        self.finish()
    }

    /// Goes on with work that was left. True if there is still more.
    pub fn service(&mut self) -> bool {
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

    /// Packets were received into posted buffers.
    pub fn received(&mut self, port: u32, queue: u32, packets: &[RxPacket]) -> bool {
        if let Some(key) = self.nic.receive_object(port as usize, queue) {
            rx::received(&mut self.context(), key, packets);
        }
        self.finish()
    }

    /// Transmits that were pending have ended.
    pub fn transmitted(&mut self, port: u32, queue: u32, done: &[TxCompletion]) -> bool {
        if let Some(key) = self.nic.send_object(port as usize, queue) {
            tx::transmitted(&mut self.context(), key, done);
        }
        self.finish()
    }

    /// A port's link went up or down.
    pub fn link_changed(&mut self, port: u32, up: bool) {
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

    /// The VMM took away memory that windows show, or gave it back.
    pub fn windows_changed(&mut self, named: impl Fn(&Window) -> bool, present: bool) {
        self.queues.windows_changed(named, present);
    }

    /// Back to power-on: every queue, region and buffer is given back.
    pub fn reset(&mut self) {
        self.reset_registers();
        self.end_hwc();
    }

    fn reset_registers(&mut self) {
        self.smc = Smc::default();
        self.doorbell_low = None;
    }

    fn end_hwc(&mut self) {
        crate::nic::objects::destroy_all(&mut self.context());
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

/// The register map that a VF driver reads (`mana_gd_init_vf_regs`).
fn register_map() -> [u8; 0x28] {
    let (major, minor, micro) = REGISTERS_VERSION;
    let mut map = [0; 0x28];
    map[0x00..0x02].copy_from_slice(&micro.to_le_bytes());
    map[0x02] = minor;
    map[0x03] = major;
    map[0x08..0x10].copy_from_slice(&DOORBELLS.to_le_bytes());
    map[0x10..0x12].copy_from_slice(&(DOORBELL_PAGE_SIZE as u16).to_le_bytes());
    map[0x18..0x20].copy_from_slice(&SHARED_MEMORY.to_le_bytes());
    map[0x20..0x22].copy_from_slice(&(wire_smc::APERTURE as u16).to_le_bytes());
    map
}
