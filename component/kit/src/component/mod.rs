//! A device as a component: the WIT world's exports on one side, its imports
//! as the [`Platform`] on the other.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::marker::PhantomData;

use crate::adapter::{Adapter, PortConfig};
use crate::bindings::exports::manatee::device::device::{
    Bounds, ConfigureError, Description, DeviceEvent, Guest, PortConfig as WitPortConfig,
    RestoreError as WitRestoreError,
};
use crate::bindings::manatee::device::guest_memory::WindowAccess;
use crate::bindings::manatee::device::types::{Features, Link, LinkState};
use crate::bindings::manatee::device::{guest_memory, interrupts, log, packet_endpoint, recovery};
use crate::envelope::RestoreError;
use crate::platform::{
    Level, MemoryError, Observations, Platform, RxBuffer, Segment, TransmitResult, TxCompletion,
    TxPacket,
};
use crate::window::Window;

pub use received::received;

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

/// The imports.
#[derive(Default)]
pub struct Host {
    pages: pages::Pages,
    /// Keeps its allocation between lines.
    line: String,
}

/// The one device of a component's instance. A component is never entered
/// twice at a time, so the cell is never borrowed twice.
pub struct Instance<A>(RefCell<Option<A>>);

#[allow(unsafe_code)]
// SAFETY: wasm of this target has one thread.
unsafe impl<A> Sync for Instance<A> {}

impl<A: Adapter<Host>> Instance<A> {
    /// Creates an instance whose device is made when it is first called.
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Does something with the device.
    pub fn with<T>(&self, act: impl FnOnce(&mut A) -> T) -> T {
        let mut device = self.0.borrow_mut();
        act(device.get_or_insert_with(|| A::new(Host::default())))
    }
}

/// A device that is a component's.
pub trait Exported: Adapter<Host> + 'static {
    /// Returns where it lives.
    fn instance() -> &'static Instance<Self>;
}

/// Makes the crate's component of an adapter that is generic over its platform.
#[macro_export]
macro_rules! export_adapter {
    ($adapter:ident) => {
        type Adapter = $adapter<$crate::component::Host>;
        type Component = $crate::component::Shim<Adapter>;

        impl $crate::component::Exported for Adapter {
            fn instance() -> &'static $crate::component::Instance<Self> {
                static INSTANCE: $crate::component::Instance<Adapter> =
                    $crate::component::Instance::new();
                &INSTANCE
            }
        }

        // SAFETY: the name is the one that the canonical ABI gives this function
        // of the WIT world, and so are the types.
        #[unsafe(export_name = "manatee:device/device@0.2.0#received")]
        extern "C" fn received(
            port: u32,
            queue: u32,
            packets: *mut $crate::platform::RxPacket,
            count: usize,
        ) -> u32 {
            // SAFETY: only the host calls this, as the canonical ABI says.
            unsafe { $crate::component::received::<Adapter>(port, queue, packets, count) }
        }

        $crate::bindings::export!(Component with_types_in $crate::bindings);
    };
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

/// The exports, for [`export_adapter`](crate::export_adapter).
pub struct Shim<A>(PhantomData<A>);

impl<A: Exported> Guest for Shim<A> {
    fn describe() -> Description {
        A::describe()
    }

    fn configure(
        offered: Features,
        bounds: Bounds,
        ports: Vec<WitPortConfig>,
    ) -> Result<Features, ConfigureError> {
        if ports.iter().any(|port| port.queues == 0) {
            return Err(ConfigureError::InvalidQueues);
        }
        let ports: Vec<_> = ports.iter().map(port_config).collect();
        A::instance().with(|device| device.configure(&ports))?;
        let windows = offered.contains(Features::WINDOWS)
            && A::instance().with(|device| device.platform().pages.reserve(bounds.arena_bytes));
        Ok(if windows {
            Features::WINDOWS
        } else {
            Features::empty()
        })
    }

    fn read_register(bar: u8, offset: u64, width: u8) -> u64 {
        A::instance().with(|device| device.read_register(bar, offset, width))
    }

    fn write_register(bar: u8, offset: u64, width: u8, value: u64) -> bool {
        A::instance().with(|device| device.write_register(bar, offset, width, value))
    }

    fn service() -> bool {
        A::instance().with(A::service)
    }

    fn transmitted(port: u32, queue: u32, packets: Vec<TxCompletion>) -> bool {
        A::instance().with(|device| device.transmitted(port, queue, &packets))
    }

    fn link_changed(port: u32, link: Link) {
        A::instance().with(|device| device.link_changed(port, is_up(link)));
    }

    fn windows_changed(offsets: Vec<u32>, present: bool) {
        let is_named = |window: &Window| {
            let offset = window.base().as_ptr() as usize as u32;
            offsets.contains(&offset)
        };
        A::instance().with(|device| device.windows_changed(is_named, present));
    }

    fn reset() {
        A::instance().with(A::reset);
    }

    fn save() -> Vec<u8> {
        A::instance().with(|device| device.save())
    }

    fn restore(state: Vec<u8>) -> Result<(), WitRestoreError> {
        let restored = A::instance().with(|device| device.restore(&state));
        restored.map_err(restore_error)
    }

    fn recover(state: Vec<u8>, seen: Observations) -> Result<(), WitRestoreError> {
        let recovered = A::instance().with(|device| device.recover(&state, &seen));
        recovered.map_err(restore_error)
    }

    fn announce(event: DeviceEvent) {
        A::instance().with(|device| device.announce(event));
    }

    fn inspect() -> Vec<u8> {
        A::instance().with(|device| device.inspect())
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

fn port_config(port: &WitPortConfig) -> PortConfig {
    let mut mac = [0; 6];
    mac.copy_from_slice(&port.mac.to_le_bytes()[..6]);
    PortConfig {
        mac,
        mtu: port.link.mtu,
        link_speed_mbps: port.link.speed_mbps,
        link_up: is_up(port.link),
    }
}

/// Returns whether a driver is told that a link is up: a host that can't tell
/// carries packets as far as it can.
fn is_up(link: Link) -> bool {
    link.state != LinkState::Down
}
