//! The imports, with parameters and results where the canonical ABI puts them.

use wasmtime::{Caller, Engine, Linker, Result, bail};

use super::abi;
use super::guest_abi::{called, put};
use super::heap::Heap;
use super::layout;
use crate::contract::{
    HashTypes, Level, MemoryError, Offloads, RxBuffer, Segment, Steering, TxPacket,
};
use crate::endpoint::Groups;
use crate::runtime::bounds;
use crate::runtime::imports::WINDOW_PAGES;
use crate::runtime::linear_memory::WindowAccess;
use crate::runtime::scratch::Scratch;
use crate::runtime::state::HostState;

type Host<'a> = Caller<'a, HostState>;

/// An address and a number of items or bytes.
type List = (u32, u32);

/// Returns the imports of the world, and nothing else.
///
/// # Errors
///
/// The error of wasmtime, which is not expected.
pub fn linker(engine: &Engine) -> Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    let memory = "manatee:device/guest-memory@0.2.0";
    linker.func_wrap(memory, "read", read)?;
    linker.func_wrap(memory, "write", write)?;
    linker.func_wrap(memory, "reserve-arena", reserve_arena)?;
    linker.func_wrap(memory, "map-window", map_window)?;
    linker.func_wrap(memory, "unmap-window", |mut host: Host<'_>, offset: u32| {
        called(&mut host)?.1.take_window_away(offset)
    })?;
    let interrupts = "manatee:device/interrupts@0.2.0";
    linker.func_wrap(interrupts, "raise", raise)?;
    linker.func_wrap(interrupts, "raise-within", raise_within)?;
    let packets = "manatee:device/packet-endpoint@0.2.0";
    linker.func_wrap(packets, "transmit", transmit)?;
    linker.func_wrap(packets, "post-receive", post_receive)?;
    linker.func_wrap(
        packets,
        "cancel-receive",
        |mut host: Host<'_>, port: u32, queue: u32| {
            called(&mut host)?.1.cancel_receive(port, queue)
        },
    )?;
    linker.func_wrap(
        packets,
        "cancel-transmit",
        |mut host: Host<'_>, port: u32, queue: u32| {
            called(&mut host)?.1.cancel_transmit(port, queue)
        },
    )?;
    linker.func_wrap(packets, "steer", steer)?;
    linker.func_wrap(
        packets,
        "limit-rate",
        |mut host: Host<'_>, port: u32, is_some: u32, mbps: u32| {
            let mbps = Some(mbps).filter(|_| is_some != 0);
            called(&mut host)?.1.limit_rate(port, mbps)
        },
    )?;
    linker.func_wrap(packets, "statistics", statistics)?;
    let recovery = "manatee:device/recovery@0.2.0";
    linker.func_wrap(recovery, "changed", |mut host: Host<'_>| {
        called(&mut host)?.1.changed = true;
        Ok(())
    })?;
    linker.func_wrap(recovery, "attempt", |mut host: Host<'_>, element: u64| {
        called(&mut host)?.1.set_attempt(Some(element));
        Ok(())
    })?;
    linker.func_wrap("manatee:device/log@0.2.0", "write", log)?;
    Ok(linker)
}

/// Writes `result<_, E>` for an enum `E` of one byte, of which the case is given.
fn answer(heap: &mut Heap<'_>, to: u32, result: Result<(), u8>) -> Result<()> {
    use layout::map_window_returns as at;
    let to = heap.bytes_mut(to, at::SIZE, at::ALIGN)?;
    match result {
        Ok(()) => to[0] = 0,
        Err(case) => (to[0], to[at::PAYLOAD]) = (1, case),
    }
    Ok(())
}

const _: () = {
    use layout::{map_window_returns, reserve_arena_returns, write_returns};
    assert!(map_window_returns::SIZE == reserve_arena_returns::SIZE);
    assert!(map_window_returns::SIZE == write_returns::SIZE);
};

fn read(mut host: Host<'_>, address: u64, length: u32, to: u32) -> Result<()> {
    use layout::read_returns as at;
    let (heap, state) = called(&mut host)?;
    heap.bytes(to, at::SIZE, at::ALIGN)?;
    let mut outcome = state.check_read(address, length);
    let mut data = 0;
    if outcome.is_ok() {
        data = put(&mut host, 1, length as usize, |data, state| {
            let read = state.memory.read(address, data);
            outcome = read.map_err(|_| MemoryError::Unmapped);
        })?;
    }
    let (mut heap, _) = called(&mut host)?;
    let to = heap.bytes_mut(to, at::SIZE, at::ALIGN)?;
    match outcome {
        Ok(()) => {
            to[0] = 0;
            abi::set(to, at::PAYLOAD, &data.to_le_bytes());
            abi::set(to, at::PAYLOAD + 4, &length.to_le_bytes());
        }
        Err(error) => {
            to[0] = 1;
            to[at::PAYLOAD] = error as u8;
        }
    }
    Ok(())
}

fn write(mut host: Host<'_>, address: u64, data: u32, length: u32, to: u32) -> Result<()> {
    let (mut heap, state) = called(&mut host)?;
    let data = heap.bytes(data, length as usize, 1)?;
    let written = state.write_guest(address, data)?;
    answer(&mut heap, to, written.map_err(|error| error as u8))
}

fn reserve_arena(mut host: Host<'_>, offset: u32, length: u32, to: u32) -> Result<()> {
    let (mut heap, state) = called(&mut host)?;
    let reserved = state.reserve_arena(offset, length);
    let answered = reserved.as_ref().map(|_| ()).map_err(|error| *error as u8);
    answer(&mut heap, to, answered)?;
    if let (Ok(arena), Some(inside)) = (reserved, &mut state.inside) {
        inside.set_arena(arena);
    }
    Ok(())
}

fn map_window(
    mut host: Host<'_>,
    offset: u32,
    pages: u32,
    count: u32,
    access: u32,
    to: u32,
) -> Result<()> {
    let access = match access as usize {
        layout::window_access::READ_WRITE => WindowAccess::ReadWrite,
        layout::window_access::READ_ONLY => WindowAccess::ReadOnly,
        unknown => bail!("{unknown} is no access of a window"),
    };
    let (mut heap, state) = called(&mut host)?;
    bounds::check(WINDOW_PAGES, count as usize, bounds::WINDOW_PAGES)?;
    let pages = heap.items::<u64>((pages, count), 8)?;
    let pages: Vec<_> = pages.iter().copied().map(u64::from_le).collect();
    let laid = state.lay_window(offset, &pages, access)?;
    answer(&mut heap, to, laid.map_err(|error| error as u8))
}

fn raise(mut host: Host<'_>, vectors: u32, count: u32) -> Result<()> {
    let (heap, state) = called(&mut host)?;
    state.check_raise(count as usize)?;
    let vectors = heap.items::<u16>((vectors, count), 2)?;
    vectors
        .iter()
        .for_each(|vector| state.raise(u16::from_le(*vector)));
    Ok(())
}

fn raise_within(mut host: Host<'_>, vectors: u32, count: u32) -> Result<()> {
    use layout::delayed as at;
    let (heap, state) = called(&mut host)?;
    state.check_raise_within(count as usize)?;
    for words in heap.items::<[u32; at::SIZE / 4]>((vectors, count), at::ALIGN)? {
        let words = Words(words);
        state.raise_within(words.u16(at::VECTOR), words.u32(at::MICROSECONDS));
    }
    Ok(())
}

/// Copies a list of records, replacing the contents of `to`.
#[inline]
fn copy<T, const N: usize>(
    heap: &Heap<'_>,
    list: List,
    align: u32,
    to: &mut Vec<T>,
    record: impl Fn(Words<'_, N>) -> T,
) -> Result<()> {
    to.clear();
    match heap.items::<[u32; N]>(list, align)? {
        // A doorbell for one packet is the usual one, and a loop for many takes its time
        // to begin.
        [one] => to.push(record(Words(one))),
        many => to.extend(many.iter().map(|words| record(Words(words)))),
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the canonical ABI's")]
fn transmit(
    mut host: Host<'_>,
    port: u32,
    queue: u32,
    packets: u32,
    packet_count: u32,
    segments: u32,
    segment_count: u32,
    to: u32,
) -> Result<()> {
    let (mut heap, state) = called(&mut host)?;
    Scratch::check(packet_count as usize, segment_count as usize)?;
    let scratch = &mut state.scratch;
    copy(
        &heap,
        (packets, packet_count),
        layout::tx_packet::ALIGN,
        &mut scratch.packets,
        packet,
    )?;
    copy(
        &heap,
        (segments, segment_count),
        layout::segment::ALIGN,
        &mut scratch.segments,
        segment,
    )?;
    let groups = state.transmit(port, queue)?;
    if state.scratch.statuses.is_empty() {
        // An empty list may have any address.
        return transmitted(&mut heap, to, (1, 0), &groups);
    }
    let list = put_statuses(&mut host)?;
    let (mut heap, _) = called(&mut host)?;
    transmitted(&mut heap, to, list, &groups)
}

/// Writes a `transmit-result`.
fn transmitted(heap: &mut Heap<'_>, to: u32, list: List, groups: &Groups) -> Result<()> {
    use layout::transmit_result as at;
    let to = heap.bytes_mut(to, at::SIZE, at::ALIGN)?;
    abi::set(to, at::STATUSES, &list.0.to_le_bytes());
    abi::set(to, at::STATUSES + 4, &list.1.to_le_bytes());
    abi::set(to, at::MULTICAST_PACKETS, &groups.multicast.0.to_le_bytes());
    abi::set(to, at::MULTICAST_BYTES, &groups.multicast.1.to_le_bytes());
    abi::set(to, at::BROADCAST_PACKETS, &groups.broadcast.0.to_le_bytes());
    abi::set(to, at::BROADCAST_BYTES, &groups.broadcast.1.to_le_bytes());
    Ok(())
}

fn put_statuses(host: &mut Host<'_>) -> Result<List> {
    let (_, state) = called(host)?;
    let count = state.scratch.statuses.len();
    let address = put(host, 1, count, |to, state| {
        for (to, status) in to.iter_mut().zip(&state.scratch.statuses) {
            *to = *status as u8;
        }
    })?;
    Ok((address, count as u32))
}

fn post_receive(
    mut host: Host<'_>,
    port: u32,
    queue: u32,
    buffers: u32,
    buffer_count: u32,
    segments: u32,
    segment_count: u32,
) -> Result<u32> {
    let (heap, state) = called(&mut host)?;
    Scratch::check(buffer_count as usize, segment_count as usize)?;
    let scratch = &mut state.scratch;
    copy(
        &heap,
        (buffers, buffer_count),
        layout::rx_buffer::ALIGN,
        &mut scratch.buffers,
        buffer,
    )?;
    copy(
        &heap,
        (segments, segment_count),
        layout::segment::ALIGN,
        &mut scratch.segments,
        segment,
    )?;
    state.post_receive(port, queue)
}

#[expect(clippy::too_many_arguments, reason = "the canonical ABI's")]
fn steer(
    mut host: Host<'_>,
    port: u32,
    hash_types: u32,
    key: u32,
    key_length: u32,
    table: u32,
    table_length: u32,
    default_queue: u32,
) -> Result<()> {
    let (heap, state) = called(&mut host)?;
    Steering::check_key(key_length as usize)?;
    Steering::check_table(table_length as usize)?;
    let key = Steering::key(heap.bytes(key, key_length as usize, 1)?)?;
    let table = heap.items::<u16>((table, table_length), 2)?;
    let table = table.iter().copied().map(u16::from_le).collect();
    let steering = Steering {
        hash_types: HashTypes::from_bits_truncate(hash_types as u8),
        key,
        table,
        default_queue,
    };
    state.steer(port, steering)
}

fn statistics(mut host: Host<'_>, port: u32, to: u32) -> Result<()> {
    use layout::link_statistics as at;
    let (mut heap, state) = called(&mut host)?;
    let counted = state.statistics(port)?;
    let to = heap.bytes_mut(to, at::SIZE, at::ALIGN)?;
    for (offset, count) in [
        (at::RX_PACKETS, counted.rx_packets),
        (at::RX_BYTES, counted.rx_bytes),
        (at::RX_DROPPED, counted.rx_dropped),
        (at::TX_PACKETS, counted.tx_packets),
        (at::TX_BYTES, counted.tx_bytes),
        (at::TX_DROPPED, counted.tx_dropped),
    ] {
        abi::set(to, offset, &count.to_le_bytes());
    }
    Ok(())
}

fn log(mut host: Host<'_>, level: u32, line: u32, length: u32) -> Result<()> {
    let (heap, state) = called(&mut host)?;
    let Some(level) = Level::from_case(level) else {
        bail!("logged at level {level}, which does not exist");
    };
    let line = heap.bytes(line, length as usize, 1)?;
    state.log_line(level, line);
    Ok(())
}

/// A record by its words: its fields are read by one load each, since the offsets are
/// constants.
#[derive(Clone, Copy)]
struct Words<'a, const N: usize>(&'a [u32; N]);

impl<const N: usize> Words<'_, N> {
    #[inline(always)]
    fn u32(self, offset: usize) -> u32 {
        u32::from_le(self.0[offset / 4])
    }

    #[inline(always)]
    fn u16(self, offset: usize) -> u16 {
        (self.u32(offset) >> (offset % 4 * 8)) as u16
    }

    #[inline(always)]
    fn u8(self, offset: usize) -> u8 {
        (self.u32(offset) >> (offset % 4 * 8)) as u8
    }

    #[inline(always)]
    fn u64(self, offset: usize) -> u64 {
        u64::from(self.u32(offset)) | u64::from(self.u32(offset + 4)) << 32
    }
}

// Padding, and bits of flags that do not exist, are ignored.

#[inline]
fn packet(words: Words<'_, { layout::tx_packet::SIZE / 4 }>) -> TxPacket {
    use layout::tx_packet as at;
    TxPacket {
        id: words.u32(at::ID),
        segments: words.u16(at::SEGMENTS),
        l4_offset: words.u16(at::L4_OFFSET),
        segment_size: words.u16(at::SEGMENT_SIZE),
        vlan_tci: words.u16(at::VLAN_TCI),
        offloads: Offloads::from_bits_truncate(words.u8(at::OFFLOADS)),
    }
}

#[inline]
fn buffer(words: Words<'_, { layout::rx_buffer::SIZE / 4 }>) -> RxBuffer {
    use layout::rx_buffer as at;
    RxBuffer {
        id: words.u32(at::ID),
        segments: words.u16(at::SEGMENTS),
    }
}

#[inline]
fn segment(words: Words<'_, { layout::segment::SIZE / 4 }>) -> Segment {
    use layout::segment as at;
    Segment {
        address: words.u64(at::ADDRESS),
        length: words.u32(at::LENGTH),
    }
}
