//! The imports, with the parameters of wasmtime's component model. Lists stay in linear memory
//! until their length was checked.

use wasmtime::component::{Lift, Linker, LinkerInstance, WasmList};
use wasmtime::{Engine, Result, StoreContextMut};

use super::second::{Delayed, LinkStatistics, Steering, WindowAccess};
use super::types::{
    Level, MemoryError, RxBuffer, Segment, TransmitResult, TxPacket, TxStatus, WindowError,
};
use crate::contract::{self, WindowRefusal};
use crate::runtime::bounds;
use crate::runtime::imports::WINDOW_PAGES;
use crate::runtime::scratch::Scratch;
use crate::runtime::state::HostState;

type Host<'a> = StoreContextMut<'a, HostState>;

/// Returns the imports of both versions of the world, and nothing else.
///
/// # Errors
///
/// wasmtime's, of which there is no cause.
pub fn linker(engine: &Engine) -> Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    for version in ["0.1.0", "0.2.0"] {
        let name = |interface: &str| format!("manatee:device/{interface}@{version}");
        linker.instance(&name("types"))?;
        let mut memory = linker.instance(&name("guest-memory"))?;
        guest_memory(&mut memory)?;
        if version == "0.1.0" {
            memory.func_wrap("map-window", |_: Host<'_>, (_, pages): (u32, _)| {
                refuse_window(&pages)
            })?;
        } else {
            let refuse = |_: Host<'_>, (_, pages, _): (u32, _, WindowAccess)| refuse_window(&pages);
            memory.func_wrap("map-window", refuse)?;
        }
        interrupts(&mut linker.instance(&name("interrupts"))?)?;
        packet_endpoint(&mut linker.instance(&name("packet-endpoint"))?)?;
        recovery(&mut linker.instance(&name("recovery"))?)?;
        log(&mut linker.instance(&name("log"))?)?;
    }
    second(&mut linker)?;
    Ok(linker)
}

/// Copies a list out of linear memory.
fn copied<T: Lift + 'static, U: From<T>>(
    host: &mut Host<'_>,
    list: &WasmList<T>,
) -> Result<Vec<U>> {
    let items = list.iter(&mut *host)?;
    items.map(|item| item.map(U::from)).collect()
}

/// Answers that there are no windows: wasmtime creates slices of linear memory when it copies
/// lists, so that no guest memory may be mapped there.
fn refuse_window(pages: &WasmList<u64>) -> Result<(Result<(), WindowError>,)> {
    bounds::check(WINDOW_PAGES, pages.len(), bounds::WINDOW_PAGES)?;
    Ok((unsupported(),))
}

fn guest_memory(interface: &mut LinkerInstance<'_, HostState>) -> Result<()> {
    interface.func_wrap("read", |host: Host<'_>, (address, length): (u64, u32)| {
        let state = host.data();
        let read = state.check_read(address, length).and_then(|()| {
            let mut data = vec![0; length as usize];
            let read = state.memory.read(address, &mut data);
            read.map(|()| data)
                .map_err(|_| contract::MemoryError::Unmapped)
        });
        Ok((read.map_err(MemoryError::from),))
    })?;
    interface.func_wrap(
        "write",
        |mut host: Host<'_>, (address, data): (u64, WasmList<u8>)| {
            if data.len() > bounds::COPY_BYTES {
                return Ok((Err(MemoryError::TooLong),));
            }
            let data: Vec<u8> = data.as_le_slice(&host).to_vec();
            let written = host.data_mut().write_guest(address, &data)?;
            Ok((written.map_err(MemoryError::from),))
        },
    )?;
    interface.func_wrap("unmap-window", |_: Host<'_>, (_offset,): (u32,)| Ok(()))
}

fn unsupported() -> Result<(), WindowError> {
    Err(WindowRefusal::Unsupported.into())
}

fn interrupts(interface: &mut LinkerInstance<'_, HostState>) -> Result<()> {
    interface.func_wrap(
        "raise",
        |mut host: Host<'_>, (vectors,): (WasmList<u16>,)| {
            host.data().check_raise(vectors.len())?;
            let vectors: Vec<u16> = copied(&mut host, &vectors)?;
            let state = host.data_mut();
            vectors.into_iter().for_each(|vector| state.raise(vector));
            Ok(())
        },
    )
}

fn packet_endpoint(interface: &mut LinkerInstance<'_, HostState>) -> Result<()> {
    interface.func_wrap("transmit", transmit)?;
    interface.func_wrap("post-receive", post_receive)?;
    interface.func_wrap(
        "cancel-receive",
        |mut host: Host<'_>, (port, queue): (u32, u32)| host.data_mut().cancel_receive(port, queue),
    )?;
    interface.func_wrap(
        "cancel-transmit",
        |mut host: Host<'_>, (port, queue): (u32, u32)| {
            host.data_mut().cancel_transmit(port, queue)
        },
    )
}

fn transmit(
    mut host: Host<'_>,
    (port, queue, packets, segments): (u32, u32, WasmList<TxPacket>, WasmList<Segment>),
) -> Result<(TransmitResult,)> {
    Scratch::check(packets.len(), segments.len())?;
    let packets = copied(&mut host, &packets)?;
    let segments = copied(&mut host, &segments)?;
    let state = host.data_mut();
    state.scratch.packets = packets;
    state.scratch.segments = segments;
    let groups = state.transmit(port, queue)?;
    let statuses = state.scratch.statuses.drain(..).map(TxStatus::from);
    Ok((TransmitResult {
        statuses: statuses.collect(),
        multicast_packets: groups.multicast.0,
        multicast_bytes: groups.multicast.1,
        broadcast_packets: groups.broadcast.0,
        broadcast_bytes: groups.broadcast.1,
    },))
}

fn post_receive(
    mut host: Host<'_>,
    (port, queue, buffers, segments): (u32, u32, WasmList<RxBuffer>, WasmList<Segment>),
) -> Result<(u32,)> {
    Scratch::check(buffers.len(), segments.len())?;
    let buffers = copied(&mut host, &buffers)?;
    let segments = copied(&mut host, &segments)?;
    let state = host.data_mut();
    state.scratch.buffers = buffers;
    state.scratch.segments = segments;
    Ok((state.post_receive(port, queue)?,))
}

fn steer(mut host: Host<'_>, (port, steering): (u32, Steering)) -> Result<()> {
    let Steering {
        hash_types,
        key,
        table,
        default_queue,
    } = steering;
    contract::Steering::check_key(key.len())?;
    contract::Steering::check_table(table.len())?;
    let key = contract::Steering::key(key.as_le_slice(&host))?;
    let table = copied(&mut host, &table)?;
    let steering = contract::Steering {
        hash_types: hash_types.into(),
        key,
        table,
        default_queue,
    };
    host.data_mut().steer(port, steering)
}

fn recovery(interface: &mut LinkerInstance<'_, HostState>) -> Result<()> {
    interface.func_wrap("changed", |mut host: Host<'_>, (): ()| {
        host.data_mut().changed = true;
        Ok(())
    })?;
    interface.func_wrap("attempt", |mut host: Host<'_>, (element,): (u64,)| {
        host.data_mut().set_attempt(Some(element));
        Ok(())
    })
}

fn log(interface: &mut LinkerInstance<'_, HostState>) -> Result<()> {
    interface.func_wrap(
        "write",
        |mut host: Host<'_>, (level, line): (Level, WasmList<u8>)| {
            let length = line.len().min(bounds::LINE_BYTES);
            let line = line.as_le_slice(&host)[..length].to_vec();
            host.data_mut().log_line(level.into(), &line);
            Ok(())
        },
    )
}

/// Returns the imports that only version 0.2.0 has.
fn second(linker: &mut Linker<HostState>) -> Result<()> {
    let mut memory = linker.instance("manatee:device/guest-memory@0.2.0")?;
    memory.func_wrap("reserve-arena", |_: Host<'_>, (_, _): (u32, u32)| {
        Ok((unsupported(),))
    })?;
    let mut interrupts = linker.instance("manatee:device/interrupts@0.2.0")?;
    interrupts.func_wrap(
        "raise-within",
        |mut host: Host<'_>, (vectors,): (WasmList<Delayed>,)| {
            host.data().check_raise_within(vectors.len())?;
            let vectors: Vec<Delayed> = copied(&mut host, &vectors)?;
            let state = host.data_mut();
            for it in vectors {
                state.raise_within(it.vector, it.microseconds);
            }
            Ok(())
        },
    )?;
    let mut packets = linker.instance("manatee:device/packet-endpoint@0.2.0")?;
    packets.func_wrap("steer", steer)?;
    packets.func_wrap(
        "limit-rate",
        |mut host: Host<'_>, (port, mbps): (u32, Option<u32>)| {
            host.data_mut().limit_rate(port, mbps)
        },
    )?;
    packets.func_wrap("statistics", |host: Host<'_>, (port,): (u32,)| {
        let counted = host.data().statistics(port)?;
        Ok((LinkStatistics::from(counted),))
    })?;
    Ok(())
}
