//! The testbed as a component.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use device_kit::bindings::manatee::device::packet_endpoint as kit;
use device_kit::bindings::manatee::device::types::{
    Features, RxBuffer, RxPacket, Segment, TxCompletion, TxPacket, TxStatus,
};
use device_kit::platform;
use manatee_world::memory::AccessError;
use manatee_world::{Queue, World};
use spin::{Lazy, Mutex};

use crate::bindings::exports::manatee::device::guest_memory::{
    self, MemoryError, WindowAccess, WindowError,
};
use crate::bindings::exports::manatee::device::packet_endpoint::{
    self, HashTypes, Steering, TransmitResult,
};
use crate::bindings::exports::manatee::device::{interrupts, log, recovery};
use crate::bindings::exports::manatee::testbed::control;
use crate::bindings::exports::manatee::testbed::elsewhere;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// The world. Calls do not nest, so the lock is always free.
static WORLD: Lazy<Mutex<World>> = Lazy::new(|| Mutex::new(World::default()));

/// Calls `act` with a queue, which the runner knows to exist.
fn with_queue<T>(port: u32, queue: u32, act: impl FnOnce(&mut Queue) -> T) -> T {
    act(WORLD.lock().queue(port, queue))
}

/// Notes that the device used a feature that no test offers.
fn not_offered(feature: Features, name: &str) {
    WORLD.lock().check_offered(feature, name);
}

struct Testbed;

fn memory_error(error: AccessError) -> MemoryError {
    match error {
        AccessError::Unmapped => MemoryError::Unmapped,
        AccessError::TooLong => MemoryError::TooLong,
    }
}

impl guest_memory::Guest for Testbed {
    fn read(address: u64, length: u32) -> Result<Vec<u8>, MemoryError> {
        let world = WORLD.lock();
        // The length is checked before a buffer is allocated: the device controls it.
        world
            .memory
            .check(address, length.into())
            .map_err(memory_error)?;
        let mut data = vec![0; length as usize];
        let read = world.memory.read(address, &mut data);
        read.map(|()| data).map_err(memory_error)
    }

    fn write(address: u64, data: Vec<u8>) -> Result<(), MemoryError> {
        let written = WORLD.lock().memory.write(address, &data);
        written.map_err(memory_error)
    }

    fn reserve_arena(_offset: u32, _length: u32) -> Result<(), WindowError> {
        not_offered(Features::WINDOWS, "windows");
        Err(WindowError::Unsupported)
    }

    fn map_window(
        _offset: u32,
        _pages: Vec<u64>,
        _access: WindowAccess,
    ) -> Result<(), WindowError> {
        not_offered(Features::WINDOWS, "windows");
        Err(WindowError::Unsupported)
    }

    fn unmap_window(_offset: u32) {
        not_offered(Features::WINDOWS, "windows");
    }
}

impl interrupts::Guest for Testbed {
    fn raise(vectors: Vec<u16>) {
        WORLD.lock().raise(&vectors);
    }

    fn raise_within(_vectors: Vec<interrupts::Delayed>) {
        not_offered(Features::MODERATION, "moderation");
    }
}

impl packet_endpoint::Guest for Testbed {
    fn transmit(
        port: u32,
        queue: u32,
        packets: Vec<TxPacket>,
        segments: Vec<Segment>,
    ) -> TransmitResult {
        let packets: Vec<_> = packets.iter().map(packet).collect();
        let result = WORLD.lock().transmit(port, queue, &packets, &segments);
        TransmitResult {
            statuses: result.statuses,
            multicast_packets: result.multicast.0,
            multicast_bytes: result.multicast.1,
            broadcast_packets: result.broadcast.0,
            broadcast_bytes: result.broadcast.1,
        }
    }

    fn post_receive(port: u32, queue: u32, buffers: Vec<RxBuffer>, segments: Vec<Segment>) -> u32 {
        WORLD.lock().post_receive(port, queue, &buffers, &segments)
    }

    fn cancel_receive(port: u32, queue: u32) {
        WORLD.lock().cancel_receive(port, queue);
    }

    fn cancel_transmit(port: u32, queue: u32) {
        WORLD.lock().cancel_transmit(port, queue);
    }

    fn steer(port: u32, steering: Steering) {
        WORLD.lock().steer(
            port,
            kit::Steering {
                hash_types: kit::HashTypes::from_bits_retain(steering.hash_types.bits()),
                key: steering.key,
                table: steering.table,
                default_queue: steering.default_queue,
            },
        );
    }

    fn limit_rate(_port: u32, _mbps: Option<u32>) {
        not_offered(Features::RATE_LIMIT, "rate-limit");
    }

    fn statistics(_port: u32) -> packet_endpoint::LinkStatistics {
        not_offered(Features::STATISTICS, "statistics");
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
    fn write(level: log::Level, message: Vec<u8>) {
        let level = match level {
            log::Level::Error => platform::Level::Error,
            log::Level::Warn => platform::Level::Warn,
            log::Level::Info => platform::Level::Info,
            log::Level::Debug => platform::Level::Debug,
            log::Level::Trace => platform::Level::Trace,
        };
        let line = String::from_utf8_lossy(&message).into_owned();
        WORLD.lock().log(level, line);
    }
}

/// Converts a packet: the generated type differs from the kit's only in its name.
fn packet(packet: &TxPacket) -> platform::TxPacket {
    platform::TxPacket {
        id: packet.id,
        segments: packet.segments,
        l4_offset: packet.l4_offset,
        segment_size: packet.segment_size,
        vlan_tci: packet.vlan_tci,
        offloads: packet.offloads,
    }
}

fn transmitted(packet: manatee_world::Transmitted) -> control::Transmitted {
    control::Transmitted {
        frame: packet.frame,
        segments: packet.segments,
        l4_offset: packet.l4_offset,
        segment_size: packet.segment_size,
        vlan_tci: packet.vlan_tci,
        offloads: packet.offloads,
    }
}

impl control::Guest for Testbed {
    fn start(ports: u32, queues: u16, offered: Features) {
        WORLD.lock().start(ports, queues, offered);
    }

    fn peek(address: u64, length: u32) -> Vec<u8> {
        let mut data = vec![0; length as usize];
        let read = WORLD.lock().memory.peek(address, &mut data);
        read.expect("the range is guest memory");
        data
    }

    fn poke(address: u64, data: Vec<u8>) {
        let written = WORLD.lock().memory.poke(address, &data);
        written.expect("the range is guest memory");
    }

    fn take_interrupts() -> Vec<u16> {
        WORLD.lock().take_interrupts()
    }

    fn take_transmitted(port: u32, queue: u32) -> Vec<control::Transmitted> {
        let packets = with_queue(port, queue, Queue::take_transmitted);
        packets.into_iter().map(transmitted).collect()
    }

    fn plan_transmits(port: u32, queue: u32, statuses: Vec<TxStatus>) {
        with_queue(port, queue, |queue| queue.plan_transmits(&statuses));
    }

    fn finish_transmits(port: u32, queue: u32, statuses: Vec<TxStatus>) -> Vec<TxCompletion> {
        with_queue(port, queue, |queue| queue.finish_transmits(&statuses))
    }

    fn pending_transmits(port: u32, queue: u32) -> u32 {
        with_queue(port, queue, |queue| queue.pending_transmits() as u32)
    }

    fn arrive(port: u32, queue: u32, frames: Vec<control::Arrival>) -> Vec<RxPacket> {
        let frames = frames
            .iter()
            .map(|arrival| (&arrival.frame[..], arrival.flags));
        let frames: Vec<_> = frames.collect();
        WORLD.lock().arrive(port, queue, &frames)
    }

    fn posted_buffers(port: u32, queue: u32) -> u32 {
        with_queue(port, queue, |queue| queue.posted_buffers() as u32)
    }

    fn limit_buffers(port: u32, queue: u32, most: u32) {
        with_queue(port, queue, |queue| queue.limit_buffers(most as usize));
    }

    fn revoke_memory(address: u64, length: u64) {
        WORLD.lock().memory.revoke(address, length);
    }

    fn give_memory_back() {
        WORLD.lock().memory.give_back();
    }

    fn get_steering(port: u32) -> Option<Steering> {
        let steering = WORLD.lock().port(port).steering().cloned()?;
        Some(Steering {
            hash_types: HashTypes::from_bits_retain(steering.hash_types.bits()),
            key: steering.key,
            table: steering.table,
            default_queue: steering.default_queue,
        })
    }

    fn take_log() -> Vec<Vec<u8>> {
        let lines = WORLD.lock().take_log();
        lines
            .into_iter()
            .map(|(_, line)| line.into_bytes())
            .collect()
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
