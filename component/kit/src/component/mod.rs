//! A device as a component: the WIT world's exports on one side, its imports
//! as the [`Platform`] on the other.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use crate::adapter::PortConfig;
use crate::bindings::exports::manatee::device::device::{
    Bounds, ConfigureError, Description, DeviceEvent, Guest, PortConfig as WitPortConfig,
    RestoreError as WitRestoreError,
};
use crate::bindings::manatee::device::log;
use crate::bindings::manatee::device::types::{Features, Link, LinkState};
use crate::envelope::RestoreError;
use crate::platform::{Level, Observations, TxCompletion};
use crate::window::Window;

pub use host::{Exported, Host, Instance};
pub use received::received;

mod host;
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

/// Exports an adapter as the crate's component. Its platform is [`Host`] or a
/// decorator of it.
#[macro_export]
macro_rules! export_adapter {
    ($adapter:ident, $platform:ty) => {
        type Adapter = $adapter<$platform>;
        type Component = $crate::component::Shim<Adapter>;

        impl $crate::component::Exported for Adapter {
            type Platform = $platform;

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
        let wanted = offered - Features::WINDOWS;
        let mut used = A::instance().with(|device| device.configure(wanted, &ports))?;
        let windows = offered.contains(Features::WINDOWS)
            && A::instance().with(|device| {
                let host: &mut Host = device.platform().as_mut();
                host.reserve_windows(bounds.arena_bytes)
            });
        used.set(Features::WINDOWS, windows);
        Ok(used)
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
        queues: port.queues,
    }
}

/// Returns whether to report a link as up. A host that does not know the state
/// carries packets as far as it can.
fn is_up(link: Link) -> bool {
    link.state != LinkState::Down
}
