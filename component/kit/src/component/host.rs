//! The platform that calls the WIT imports, and the one device of an instance.

use alloc::string::String;
use core::cell::RefCell;
use core::fmt;

use super::{pages, transmit};
use crate::adapter::Adapter;
use crate::bindings::manatee::device::guest_memory::WindowAccess;
use crate::bindings::manatee::device::{guest_memory, interrupts, log, packet_endpoint, recovery};
use crate::platform::{
    Delayed, Level, LinkStatistics, MemoryError, Platform, RxBuffer, Segment, Steering,
    TransmitResult, TxPacket,
};
use crate::window::Window;

/// The platform that calls the WIT imports.
#[derive(Default)]
pub struct Host {
    pages: pages::Pages,
    /// Keeps its allocation between lines.
    line: String,
}

/// The one device of a component's instance. Calls into a component do not
/// nest, so the cell is never borrowed twice.
pub struct Instance<A>(RefCell<Option<A>>);

#[allow(unsafe_code)]
// SAFETY: wasm of this target has one thread.
unsafe impl<A> Sync for Instance<A> {}

impl<A> Default for Instance<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Instance<A> {
    /// Creates an instance without a device.
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }
}

impl<A: Exported> Instance<A> {
    /// Calls `act` with the device, which the first call creates.
    pub fn with<T>(&self, act: impl FnOnce(&mut A) -> T) -> T {
        let mut device = self.0.borrow_mut();
        act(device.get_or_insert_with(|| A::new(Host::default().into())))
    }
}

/// A device that a component exports.
pub trait Exported: Adapter<Self::Platform> + 'static {
    /// [`Host`], or a decorator of it.
    type Platform: Platform + From<Host> + AsMut<Host>;

    /// Returns the instance that holds the device.
    fn instance() -> &'static Instance<Self>;
}

impl AsMut<Host> for Host {
    fn as_mut(&mut self) -> &mut Host {
        self
    }
}

impl Host {
    /// Reserves a window arena of `bytes` bytes. Returns false if there are no
    /// windows.
    pub(super) fn reserve_windows(&mut self, bytes: u32) -> bool {
        self.pages.reserve(bytes)
    }
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
        // Rings that are mapped twice are work queues, which only the guest
        // writes.
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

    fn raise_within(&mut self, vectors: &[Delayed]) {
        interrupts::raise_within(vectors);
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

    fn steer(&mut self, port: u32, steering: &Steering) {
        packet_endpoint::steer(port, steering);
    }

    fn limit_rate(&mut self, port: u32, mbps: Option<u32>) {
        packet_endpoint::limit_rate(port, mbps);
    }

    fn statistics(&mut self, port: u32) -> LinkStatistics {
        packet_endpoint::statistics(port)
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
