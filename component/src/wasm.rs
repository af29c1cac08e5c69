//! The device as a component: the WIT world's exports on one side, its
//! imports as the [`Platform`] on the other.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use crate::bindings::exports::manatee::device::device::{
    Bar, Bounds, ConfigureError as WitConfigureError, Description, DeviceEvent, Doorbells, Guest,
    PciIdentity, PortConfig, RestoreError as WitRestoreError, Version,
};
use crate::bindings::manatee::device::guest_memory::WindowAccess;
use crate::bindings::manatee::device::types::{Features, Link, LinkState};
use crate::bindings::manatee::device::{guest_memory, interrupts, log, packet_endpoint, recovery};
use crate::device::{BAR0_SIZE, ConfigureError, DOORBELL_PAGE_SIZE, DOORBELLS, Device};
use crate::nic::{self, MAX_VPORTS};
use crate::platform::{
    Level, MemoryError, Observations, Platform, RxBuffer, Segment, TransmitResult, TxCompletion,
    TxPacket,
};
use crate::queues::MAX_VECTORS;
use crate::saved::{self, RestoreError};
use crate::window::Window;
use crate::wire::queue::WqDoorbell;

mod pages;
mod received;
mod transmit;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut line = String::new();
    let _ = fmt::write(&mut line, format_args!("{info}"));
    log::write(Level::Error, line.as_bytes());
    core::arch::wasm32::unreachable()
}

/// What the build is called: `MANATEE_BUILD` at compile time, or the package's
/// version.
const BUILD: &str = match option_env!("MANATEE_BUILD") {
    Some(build) => build,
    None => env!("CARGO_PKG_VERSION"),
};

/// The imports.
struct Host {
    pages: pages::Pages,
    /// Keeps its allocation between lines.
    line: String,
}

/// The one adapter of this instance. A component is never entered twice at a
/// time, so the cell is never borrowed twice.
struct Instance(RefCell<Option<Device<Host>>>);

#[allow(unsafe_code)]
// SAFETY: wasm of this target has one thread.
unsafe impl Sync for Instance {}

static INSTANCE: Instance = Instance(RefCell::new(None));

fn with_device<T>(act: impl FnOnce(&mut Device<Host>) -> T) -> T {
    let mut device = INSTANCE.0.borrow_mut();
    act(device.get_or_insert_with(|| {
        Device::new(Host {
            pages: pages::Pages::default(),
            line: String::new(),
        })
    }))
}

impl Platform for Host {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = guest_memory::read(address, data.len() as u32).map_err(|_| MemoryError)?;
        if bytes.len() != data.len() {
            return Err(MemoryError);
        }
        data.copy_from_slice(&bytes);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        guest_memory::write(address, data).map_err(|_| MemoryError)
    }

    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        let count = pages.len().checked_mul(repeats)?;
        // Rings that are laid twice are work queues, which only the guest writes.
        let access = match repeats {
            1 => WindowAccess::ReadWrite,
            _ => WindowAccess::ReadOnly,
        };
        let offset = self.pages.take(count, access)?;
        let mapped = if repeats == 1 {
            guest_memory::map_window(offset, pages, access)
        } else {
            guest_memory::map_window(offset, &pages.repeat(repeats), access)
        };
        if mapped.is_err() {
            self.pages.give_back(offset, count);
            return None;
        }
        Some(pages::window(offset, count))
    }

    fn unmap_window(&mut self, window: Window) {
        let (base, length) = window.into_parts();
        let offset = base.as_ptr() as usize as u32;
        guest_memory::unmap_window(offset);
        self.pages.give_back(offset, length as usize / pages::SIZE);
    }

    fn raise(&mut self, vectors: &[u16]) {
        interrupts::raise(vectors);
    }

    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        transmit::transmit(port, queue, packets, segments)
    }

    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        packet_endpoint::post_receive(port, queue, buffers, segments)
    }

    fn cancel_receive(&mut self, port: u32, queue: u32) {
        packet_endpoint::cancel_receive(port, queue);
    }

    fn cancel_transmit(&mut self, port: u32, queue: u32) {
        packet_endpoint::cancel_transmit(port, queue);
    }

    fn changed(&mut self) {
        recovery::changed();
    }

    fn attempt(&mut self, entry: u64) {
        recovery::attempt(entry);
    }

    fn log(&mut self, level: Level, message: fmt::Arguments<'_>) {
        self.line.clear();
        let _ = fmt::write(&mut self.line, message);
        log::write(level, self.line.as_bytes());
    }
}

/// The exports.
struct Component;

impl Guest for Component {
    fn describe() -> Description {
        Description {
            version: Version {
                name: Vec::from(b"MANA VF"),
                build: Vec::from(BUILD.as_bytes()),
            },
            pci: PciIdentity {
                vendor_id: 0x1414,
                device_id: 0x00ba,
                subsystem_vendor_id: 0x1414,
                subsystem_id: 0,
                revision_id: 1,
                class_code: 0x02_00_00,
            },
            bars: Vec::from([Bar {
                index: 0,
                size: BAR0_SIZE,
            }]),
            msix_vectors: MAX_VECTORS,
            max_ports: MAX_VPORTS as u32,
            saved_state_writes: Some(saved::VERSION),
            saved_state_reads: saved::READS.to_vec(),
            doorbells: Vec::from([Doorbells {
                bar: 0,
                offset: DOORBELLS,
                length: DOORBELL_PAGE_SIZE,
                key: WqDoorbell::new().with_id(!0 >> 8).into_bits(),
            }]),
        }
    }

    fn configure(
        offered: Features,
        bounds: Bounds,
        ports: Vec<PortConfig>,
    ) -> Result<Features, WitConfigureError> {
        if ports.iter().any(|port| port.queues == 0) {
            return Err(WitConfigureError::InvalidQueues);
        }
        let ports: Vec<_> = ports.iter().map(port_config).collect();
        let configured = with_device(|device| device.configure(&ports));
        configured.map_err(|error| match error {
            ConfigureError::NoPorts => WitConfigureError::NoPorts,
            ConfigureError::TooManyPorts => WitConfigureError::TooManyPorts,
            ConfigureError::InvalidMac => WitConfigureError::InvalidMac,
            ConfigureError::InvalidMtu => WitConfigureError::InvalidMtu,
            ConfigureError::Repeated => WitConfigureError::Repeated,
        })?;
        let windows = offered.contains(Features::WINDOWS)
            && with_device(|device| device.platform().pages.reserve(bounds.arena_bytes));
        Ok(if windows {
            Features::WINDOWS
        } else {
            Features::empty()
        })
    }

    fn read_register(bar: u8, offset: u64, width: u8) -> u64 {
        if bar != 0 {
            return 0;
        }
        with_device(|device| device.read_register(offset, width))
    }

    fn write_register(bar: u8, offset: u64, width: u8, value: u64) -> bool {
        bar == 0 && with_device(|device| device.write_register(offset, width, value))
    }

    fn service() -> bool {
        with_device(Device::service)
    }

    fn transmitted(port: u32, queue: u32, packets: Vec<TxCompletion>) -> bool {
        with_device(|device| device.transmitted(port, queue, &packets))
    }

    fn link_changed(port: u32, link: Link) {
        with_device(|device| device.link_changed(port, is_up(link)));
    }

    fn windows_changed(offsets: Vec<u32>, present: bool) {
        let named = |window: &Window| {
            let offset = window.base().as_ptr() as usize as u32;
            offsets.contains(&offset)
        };
        with_device(|device| device.windows_changed(named, present));
    }

    fn reset() {
        with_device(Device::reset);
    }

    fn save() -> Vec<u8> {
        with_device(|device| device.save())
    }

    fn restore(state: Vec<u8>) -> Result<(), WitRestoreError> {
        with_device(|device| device.restore(&state)).map_err(restore_error)
    }

    fn recover(state: Vec<u8>, seen: Observations) -> Result<(), WitRestoreError> {
        with_device(|device| device.recover(&state, &seen)).map_err(restore_error)
    }

    fn announce(event: DeviceEvent) {
        match event {
            DeviceEvent::ResetRequest => with_device(Device::request_reset),
            // The hardware channel has no event of these kinds yet.
            DeviceEvent::Service | DeviceEvent::Reconfigure => {}
        }
    }

    fn inspect() -> Vec<u8> {
        with_device(|device| serde_json::to_vec(&device.inspect()).unwrap_or_default())
    }
}

fn restore_error(error: RestoreError) -> WitRestoreError {
    match error {
        RestoreError::NotConfigured => WitRestoreError::NotConfigured,
        RestoreError::Version(version) => WitRestoreError::Version(version),
        RestoreError::Malformed(what) => WitRestoreError::Malformed(Vec::from(what)),
        RestoreError::Mismatch(what) => WitRestoreError::Mismatch(Vec::from(what)),
    }
}

fn port_config(port: &PortConfig) -> nic::PortConfig {
    let mut mac = [0; 6];
    mac.copy_from_slice(&port.mac.to_le_bytes()[..6]);
    nic::PortConfig {
        mac,
        mtu: port.link.mtu,
        link_speed_mbps: port.link.speed_mbps,
        link_up: is_up(port.link),
    }
}

/// Whether a driver is told that a link is up: a host that can't tell carries
/// packets as far as it can.
fn is_up(link: Link) -> bool {
    link.state != LinkState::Down
}

#[allow(unsafe_code)]
mod export {
    use super::Component;
    crate::bindings::export!(Component with_types_in crate::bindings);
}
