//! The imports, with parameters and results where the canonical ABI puts them.

use wasmtime::{Caller, Engine, Linker, Result, bail};

use super::abi;
use super::inside::{called, put};
use crate::bindings::manatee::device::guest_memory::MemoryError;
use crate::bindings::manatee::device::log::Level;
use crate::bindings::manatee::device::types::{RxBuffer, Segment, TxPacket};
use crate::endpoint::{Groups, Offloads};
use crate::runtime::imports::Scratch;
use crate::runtime::state::HostState;

type Host<'a> = Caller<'a, HostState>;

/// The imports of the world, and nothing else.
///
/// # Errors
///
/// wasmtime's, of which there is no cause.
pub fn linker(engine: &Engine) -> Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    let memory = "manatee:device/guest-memory@0.1.0";
    linker.func_wrap(memory, "read", read)?;
    linker.func_wrap(memory, "write", write)?;
    linker.func_wrap(memory, "map-window", map_window)?;
    linker.func_wrap(memory, "unmap-window", |mut host: Host<'_>, offset: u32| {
        let (_, state) = called(&mut host)?;
        state.take_window_away(offset);
        Ok(())
    })?;
    linker.func_wrap("manatee:device/interrupts@0.1.0", "raise", raise)?;
    let packets = "manatee:device/packet-endpoint@0.1.0";
    linker.func_wrap(packets, "transmit", transmit)?;
    linker.func_wrap(packets, "post-receive", post_receive)?;
    linker.func_wrap(
        packets,
        "cancel-receive",
        |mut host: Host<'_>, port: u32, _queue: u32| called(&mut host)?.1.cancel_receive(port),
    )?;
    linker.func_wrap(
        packets,
        "cancel-transmit",
        |mut host: Host<'_>, port: u32, _queue: u32| called(&mut host)?.1.cancel_transmit(port),
    )?;
    let recovery = "manatee:device/recovery@0.1.0";
    linker.func_wrap(recovery, "changed", |mut host: Host<'_>| {
        called(&mut host)?.1.changed = true;
        Ok(())
    })?;
    linker.func_wrap(recovery, "attempt", |mut host: Host<'_>, entry: u64| {
        called(&mut host)?.1.attempt = Some(entry);
        Ok(())
    })?;
    linker.func_wrap("manatee:device/log@0.1.0", "write", log)?;
    Ok(linker)
}

/// Writes `result<_, E>` for an enum `E` of one byte.
fn answer<E>(memory: &mut [u8], to: u32, result: Result<(), E>, code: fn(E) -> u8) -> Result<()> {
    let to = abi::range_mut(memory, to, 2, 1)?;
    match result {
        Ok(()) => to[0] = 0,
        Err(error) => to.copy_from_slice(&[1, code(error)]),
    }
    Ok(())
}

fn read(mut host: Host<'_>, address: u64, length: u32, to: u32) -> Result<()> {
    const SIZE: usize = 12;
    let (memory, state) = called(&mut host)?;
    abi::range(memory, to, SIZE, 4)?;
    let mut outcome = state.check_read(address, length);
    let mut data = 0;
    if outcome.is_ok() {
        data = put(&mut host, 1, length as usize, |data, state| {
            let read = state.memory.read(address, data);
            outcome = read.map_err(|_| MemoryError::Unmapped);
        })?;
    }
    let (memory, _) = called(&mut host)?;
    let to = abi::range_mut(memory, to, SIZE, 4)?;
    match outcome {
        Ok(()) => {
            to[0] = 0;
            abi::set(to, 4, &data.to_le_bytes());
            abi::set(to, 8, &length.to_le_bytes());
        }
        Err(error) => {
            to[0] = 1;
            to[4] = error as u8;
        }
    }
    Ok(())
}

fn write(mut host: Host<'_>, address: u64, data: u32, length: u32, to: u32) -> Result<()> {
    let (memory, state) = called(&mut host)?;
    let data = abi::range(memory, data, length as usize, 1)?;
    let written = state.write_guest(address, data)?;
    answer(memory, to, written, |error| error as u8)
}

fn map_window(mut host: Host<'_>, offset: u32, pages: u32, count: u32, to: u32) -> Result<()> {
    let (memory, state) = called(&mut host)?;
    let pages = abi::items::<u64>(memory, (pages, count), 8)?;
    let pages: Vec<_> = pages.iter().copied().map(u64::from_le).collect();
    let laid = state.lay_window(offset, &pages);
    answer(memory, to, laid, |error| error as u8)
}

fn raise(mut host: Host<'_>, vectors: u32, count: u32) -> Result<()> {
    let (memory, state) = called(&mut host)?;
    let vectors = abi::items::<u16>(memory, (vectors, count), 2)?;
    state.raise_all(vectors.iter().copied().map(u16::from_le))
}

/// An address and a number of items or bytes.
type List = (u32, u32);

/// Bytes of a `transmit-result`.
const TRANSMIT_RESULT: usize = 40;

/// Copies a list of records, in place of what `to` has.
fn copy<T, const N: usize>(
    memory: &[u8],
    list: List,
    align: u32,
    to: &mut Vec<T>,
    record: fn(&[u32; N]) -> T,
) -> Result<()> {
    let words = abi::items::<[u32; N]>(memory, list, align)?;
    to.clear();
    to.extend(words.iter().map(record));
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
    let (memory, state) = called(&mut host)?;
    let Scratch {
        packets: kept,
        segments: parts,
        ..
    } = &mut state.scratch;
    copy(memory, (packets, packet_count), 4, kept, packet)?;
    copy(memory, (segments, segment_count), 8, parts, segment)?;
    let groups = state.transmit(port, queue)?;
    if state.scratch.statuses.is_empty() {
        // An empty list is nowhere in particular.
        return transmitted(memory, to, (1, 0), &groups);
    }
    let list = put_statuses(&mut host)?;
    let (memory, _) = called(&mut host)?;
    transmitted(memory, to, list, &groups)
}

/// Writes a `transmit-result`.
fn transmitted(memory: &mut [u8], to: u32, list: List, groups: &Groups) -> Result<()> {
    let to = abi::range_mut(memory, to, TRANSMIT_RESULT, 8)?;
    abi::set(to, 0, &list.0.to_le_bytes());
    abi::set(to, 4, &list.1.to_le_bytes());
    abi::set(to, 8, &groups.multicast.0.to_le_bytes());
    abi::set(to, 16, &groups.multicast.1.to_le_bytes());
    abi::set(to, 24, &groups.broadcast.0.to_le_bytes());
    abi::set(to, 32, &groups.broadcast.1.to_le_bytes());
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
    let (memory, state) = called(&mut host)?;
    let Scratch {
        buffers: kept,
        segments: parts,
        ..
    } = &mut state.scratch;
    copy(memory, (buffers, buffer_count), 4, kept, buffer)?;
    copy(memory, (segments, segment_count), 8, parts, segment)?;
    state.post_receive(port, queue)
}

fn log(mut host: Host<'_>, level: u32, line: u32, length: u32) -> Result<()> {
    let (memory, state) = called(&mut host)?;
    let line = abi::range(memory, line, length as usize, 1)?;
    let level = match level {
        0 => Level::Error,
        1 => Level::Warn,
        2 => Level::Info,
        3 => Level::Debug,
        4 => Level::Trace,
        _ => bail!("logged at level {level}, which does not exist"),
    };
    state.log_line(level, line);
    Ok(())
}

// Records by their words. Padding, and bits of flags that do not exist, are
// ignored.

#[inline]
fn packet(words: &[u32; 4]) -> TxPacket {
    let [id, first, second, flags] = words.map(u32::from_le);
    TxPacket {
        id,
        segments: first as u16,
        l4_offset: (first >> 16) as u16,
        segment_size: second as u16,
        vlan_tci: (second >> 16) as u16,
        offloads: offloads(flags as u8),
    }
}

#[inline]
fn buffer(words: &[u32; 2]) -> RxBuffer {
    let [id, segments] = words.map(u32::from_le);
    RxBuffer {
        id,
        segments: segments as u16,
    }
}

#[inline]
fn segment(words: &[u32; 4]) -> Segment {
    let [low, high, length, _] = words.map(u32::from_le);
    Segment {
        address: u64::from(low) | u64::from(high) << 32,
        length,
    }
}

/// Flags by their bits, which wasmtime's type does not give access to.
#[inline]
fn offloads(bits: u8) -> Offloads {
    const ALL: [Offloads; 7] = [
        Offloads::IPV4,
        Offloads::IPV6,
        Offloads::IP_CHECKSUM,
        Offloads::TCP_CHECKSUM,
        Offloads::UDP_CHECKSUM,
        Offloads::TCP_SEGMENTATION,
        Offloads::INSERT_VLAN,
    ];
    let mut flags = Offloads::empty();
    if bits == 0 {
        return flags;
    }
    for (bit, flag) in ALL.iter().enumerate() {
        if bits >> bit & 1 != 0 {
            flags |= *flag;
        }
    }
    flags
}

const _: () = {
    use wasmtime::component::ComponentType;

    use crate::bindings::manatee::device::packet_endpoint::TransmitResult;
    assert!(TxPacket::SIZE32 == 16 && TxPacket::ALIGN32 == 4);
    assert!(RxBuffer::SIZE32 == 8 && RxBuffer::ALIGN32 == 4);
    assert!(Segment::SIZE32 == 16 && Segment::ALIGN32 == 8);
    assert!(TransmitResult::SIZE32 == TRANSMIT_RESULT && TransmitResult::ALIGN32 == 8);
    assert!(Offloads::SIZE32 == 1);
};
