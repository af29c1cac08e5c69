//! The testbed as a component.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use spin::{Lazy, Mutex};

use crate::bindings::exports::manatee::device::guest_memory::{
    self, MemoryError, WindowAccess, WindowError,
};
use crate::bindings::exports::manatee::device::packet_endpoint::{self, TransmitResult};
use crate::bindings::exports::manatee::device::{interrupts, log, recovery};
use crate::bindings::exports::manatee::testbed::control::{
    self, AccessFault, Arrival, Transmitted, WindowRefusal,
};
use crate::bindings::exports::manatee::testbed::elsewhere;
use crate::bindings::manatee::device::types::{
    RxBuffer, RxPacket, Segment, TxCompletion, TxPacket, TxStatus,
};
use crate::port::Port;
use crate::world::World;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// The world. Nothing here is called by what it calls, so the lock is free.
static WORLD: Lazy<Mutex<World>> = Lazy::new(Mutex::default);

/// Does something with a port. None if there is no such port.
fn with_port<T>(port: u32, act: impl FnOnce(&mut Port) -> T) -> Option<T> {
    WORLD.lock().ports.get_mut(port as usize).map(act)
}

/// Notes that the device used a feature that it was not offered.
fn not_offered(feature: &str) {
    WORLD.lock().offend(format!(
        "it used the feature `{feature}`, which was not offered"
    ));
}

struct Testbed;

impl guest_memory::Guest for Testbed {
    fn read(address: u64, length: u32) -> Result<Vec<u8>, MemoryError> {
        WORLD
            .lock()
            .memory
            .read(address, length)
            .map(<[u8]>::to_vec)
    }

    fn write(address: u64, data: Vec<u8>) -> Result<(), MemoryError> {
        WORLD.lock().memory.write(address, &data)
    }

    fn reserve_arena(_offset: u32, _length: u32) -> Result<(), WindowError> {
        Err(WindowError::Unsupported)
    }

    fn map_window(
        _offset: u32,
        _pages: Vec<u64>,
        _access: WindowAccess,
    ) -> Result<(), WindowError> {
        Err(WORLD.lock().window_error)
    }

    fn unmap_window(_offset: u32) {}
}

impl interrupts::Guest for Testbed {
    fn raise(vectors: Vec<u16>) {
        WORLD.lock().raise(&vectors);
    }

    fn raise_within(_vectors: Vec<interrupts::Delayed>) {
        not_offered("moderation");
    }
}

impl packet_endpoint::Guest for Testbed {
    fn transmit(
        port: u32,
        queue: u32,
        packets: Vec<TxPacket>,
        segments: Vec<Segment>,
    ) -> TransmitResult {
        WORLD.lock().transmit(port, queue, &packets, &segments)
    }

    fn post_receive(port: u32, queue: u32, buffers: Vec<RxBuffer>, segments: Vec<Segment>) -> u32 {
        WORLD.lock().post_receive(port, queue, &buffers, &segments)
    }

    fn cancel_receive(port: u32, _queue: u32) {
        with_port(port, Port::cancel_receive);
    }

    fn cancel_transmit(port: u32, _queue: u32) {
        with_port(port, Port::cancel_transmit);
    }

    fn steer(_port: u32, _steering: packet_endpoint::Steering) {
        not_offered("steering");
    }

    fn limit_rate(_port: u32, _mbps: Option<u32>) {
        not_offered("rate-limit");
    }

    fn statistics(_port: u32) -> packet_endpoint::LinkStatistics {
        not_offered("statistics");
        packet_endpoint::LinkStatistics {
            rx_packets: 0,
            rx_bytes: 0,
            rx_dropped: 0,
            tx_packets: 0,
            tx_bytes: 0,
            tx_dropped: 0,
        }
    }
}

/// Nothing of the testbed outlives a device that fails.
impl recovery::Guest for Testbed {
    fn changed() {}

    fn attempt(_entry: u64) {}
}

impl log::Guest for Testbed {
    fn write(_level: log::Level, message: Vec<u8>) {
        WORLD.lock().log(message);
    }
}

impl control::Guest for Testbed {
    fn start(ports: u32) {
        WORLD.lock().start(ports);
    }

    fn peek(address: u64, length: u32) -> Vec<u8> {
        let world = WORLD.lock();
        let bytes = world.memory.peek(address, length);
        bytes.expect("the range is guest memory").to_vec()
    }

    fn poke(address: u64, data: Vec<u8>) {
        let inside = WORLD.lock().memory.poke(address, &data);
        assert!(inside, "the range is not guest memory");
    }

    fn take_interrupts() -> Vec<u16> {
        WORLD.lock().take_interrupts()
    }

    fn take_transmitted(port: u32) -> Vec<Transmitted> {
        with_port(port, Port::take_transmitted).unwrap_or_default()
    }

    fn plan_transmits(port: u32, statuses: Vec<TxStatus>) {
        with_port(port, |port| port.plan_transmits(&statuses));
    }

    fn finish_transmits(port: u32, statuses: Vec<TxStatus>) -> Vec<TxCompletion> {
        with_port(port, |port| port.finish_transmits(&statuses)).unwrap_or_default()
    }

    fn pending_transmits(port: u32) -> u32 {
        with_port(port, |port| port.pending_transmits() as u32).unwrap_or(0)
    }

    fn arrive(port: u32, frames: Vec<Arrival>) -> Vec<RxPacket> {
        let world = &mut *WORLD.lock();
        let port = world.ports.get_mut(port as usize);
        port.map(|port| port.arrive(&mut world.memory, &frames))
            .unwrap_or_default()
    }

    fn posted_buffers(port: u32) -> u32 {
        with_port(port, |port| port.posted_buffers() as u32).unwrap_or(0)
    }

    fn limit_buffers(port: u32, most: u32) {
        with_port(port, |port| port.limit_buffers(most as usize));
    }

    fn deny_memory(address: u64, length: u64) {
        WORLD.lock().memory.deny(address, length);
    }

    fn fail_access(skip: u32, fault: AccessFault) {
        let error = match fault {
            AccessFault::Unmapped => MemoryError::Unmapped,
            AccessFault::TooLong => MemoryError::TooLong,
        };
        WORLD.lock().memory.plan_fault(skip, error);
    }

    fn refuse_windows(refusal: WindowRefusal) {
        WORLD.lock().window_error = match refusal {
            WindowRefusal::Unsupported => WindowError::Unsupported,
            WindowRefusal::Invalid => WindowError::Invalid,
            WindowRefusal::Exhausted => WindowError::Exhausted,
        };
    }

    fn take_log() -> Vec<Vec<u8>> {
        WORLD.lock().take_log()
    }

    fn take_offences() -> Vec<String> {
        WORLD.lock().take_offences()
    }
}

impl elsewhere::Guest for Testbed {
    fn attempt(_requirement: String) -> Option<Result<(), String>> {
        None
    }
}

#[allow(unsafe_code)]
mod export {
    use super::Testbed;
    crate::bindings::export!(Testbed with_types_in crate::bindings);
}
