//! The exports, called in the module.

use wasmtime::{
    Instance, InstancePre, Result, Store, TypedFunc, WasmParams, WasmResults, bail, format_err,
};

use super::abi::{self, Record};
use super::inside::{Inside, confined, heap_and_state, put};
use crate::contract::{
    Bar, Bounds, ConfigureError, Description, DeviceEvent, DoorbellRange, Features, Link,
    Observations, PciIdentity, PortConfig, RxPacket, StateRefusal, TxCompletion, Version,
};
use crate::runtime::bounds;
use crate::runtime::exports::Exports;
use crate::runtime::state::HostState;

/// The interface that a device exports.
const DEVICE: &str = "manatee:device/device@0.2.0";

/// An address and a number of items or bytes.
type List = (u32, u32);
/// As many of them as `recover` takes.
type FourLists = (u32, u32, u32, u32, u32, u32, u32, u32);
/// Features, bounds and a list, which `configure` takes.
type FlatConfiguration = (
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
);

/// A function that returns where its result lies, and the one to call once that
/// was read.
struct Returning<P> {
    function: TypedFunc<P, u32>,
    after: Option<TypedFunc<u32, ()>>,
}

/// An instance's functions.
struct Direct {
    describe: Returning<()>,
    configure: Returning<FlatConfiguration>,
    read_register: TypedFunc<(u32, u64, u32), u64>,
    write_register: TypedFunc<(u32, u64, u32, u64), u32>,
    service: TypedFunc<(), u32>,
    received: TypedFunc<(u32, u32, u32, u32), u32>,
    transmitted: TypedFunc<(u32, u32, u32, u32), u32>,
    link_changed: TypedFunc<(u32, u32, u32, u32), ()>,
    windows_changed: TypedFunc<(u32, u32, u32), ()>,
    reset: TypedFunc<(), ()>,
    save: Returning<()>,
    restore: Returning<List>,
    recover: Returning<FourLists>,
    announce: TypedFunc<u32, ()>,
    inspect: Returning<()>,
}

/// Makes an instance.
///
/// # Errors
///
/// It fails, or lacks a function.
pub fn instantiate(
    module: &InstancePre<HostState>,
    store: &mut Store<HostState>,
) -> Result<Box<dyn Exports>> {
    let instance = module.instantiate(&mut *store)?;
    let Some(memory) = instance.get_memory(&mut *store, "memory") else {
        bail!("no memory is exported");
    };
    let realloc = instance.get_typed_func(&mut *store, "cabi_realloc")?;
    store.data_mut().inside = Some(Inside::new(memory, realloc));
    let mut find = Find { instance, store };
    Ok(Box::new(Direct {
        describe: find.returning("describe")?,
        configure: find.returning("configure")?,
        read_register: find.function("read-register")?,
        write_register: find.function("write-register")?,
        service: find.function("service")?,
        received: find.function("received")?,
        transmitted: find.function("transmitted")?,
        link_changed: find.function("link-changed")?,
        windows_changed: find.function("windows-changed")?,
        reset: find.function("reset")?,
        save: find.returning("save")?,
        restore: find.returning("restore")?,
        recover: find.returning("recover")?,
        announce: find.function("announce")?,
        inspect: find.returning("inspect")?,
    }))
}

struct Find<'a> {
    instance: Instance,
    store: &'a mut Store<HostState>,
}

impl Find<'_> {
    fn function<P: WasmParams, R: WasmResults>(&mut self, name: &str) -> Result<TypedFunc<P, R>> {
        let name = format!("{DEVICE}#{name}");
        self.instance.get_typed_func(&mut *self.store, &name)
    }

    fn returning<P: WasmParams>(&mut self, name: &str) -> Result<Returning<P>> {
        let after = format!("cabi_post_{DEVICE}#{name}");
        let after = self.instance.get_func(&mut *self.store, &after);
        Ok(Returning {
            function: self.function(name)?,
            after: after.map(|f| f.typed(&*self.store)).transpose()?,
        })
    }
}

impl<P: WasmParams> Returning<P> {
    /// Calls it, and reads its result, a record of that size and alignment.
    fn call<T>(
        &self,
        store: &mut Store<HostState>,
        parameters: P,
        (size, align): (usize, u32),
        read: impl FnOnce(Record<'_>) -> Result<T>,
    ) -> Result<T> {
        let address = self.function.call(&mut *store, parameters)?;
        let (heap, _) = heap_and_state(store)?;
        let result = read(Record::at(&heap, address, size, align)?)?;
        if let Some(after) = &self.after {
            confined(store, |store, _| after.call(store, address))?;
        }
        Ok(result)
    }
}

/// Copies bytes to the instance.
fn give(store: &mut Store<HostState>, bytes: &[u8]) -> Result<List> {
    let fill = |to: &mut [u8], _: &mut HostState| to.copy_from_slice(bytes);
    Ok((put(store, 1, bytes.len(), fill)?, bytes.len() as u32))
}

/// Copies a list of records to the instance, each in `size` bytes, which are zero
/// before.
fn give_all<T>(
    store: &mut Store<HostState>,
    items: &[T],
    (size, align): (usize, u32),
    write: impl Fn(&T, &mut [u8]),
) -> Result<List> {
    let address = put(store, align, size * items.len(), |to, _| {
        to.fill(0);
        for (to, item) in to.chunks_exact_mut(size).zip(items) {
            write(item, to);
        }
    })?;
    Ok((address, items.len() as u32))
}

fn boolean(value: u32) -> bool {
    value != 0
}

/// A list's address and length.
const LIST: (usize, u32) = (8, 4);
/// `result<_, configure-error>`.
const CONFIGURED: (usize, u32) = (2, 1);
/// `result<_, restore-error>`.
const RESTORED: (usize, u32) = (16, 4);
const DESCRIPTION: (usize, u32) = (72, 4);
const BAR: (usize, u32) = (16, 8);
const DOORBELLS: (usize, u32) = (32, 8);
const PORT_CONFIG: (usize, u32) = (24, 8);
const RX_PACKET: (usize, u32) = (16, 4);
const TX_COMPLETION: (usize, u32) = (8, 4);
const REGISTER_WRITE: (usize, u32) = (24, 8);
const HANDED_OVER: (usize, u32) = (12, 4);

impl Exports for Direct {
    fn describe(&mut self, store: &mut Store<HostState>) -> Result<Description> {
        self.describe.call(store, (), DESCRIPTION, description)
    }

    fn configure(
        &mut self,
        store: &mut Store<HostState>,
        offered: Features,
        bounds: &Bounds,
        ports: &[PortConfig],
    ) -> Result<Result<Features, ConfigureError>> {
        let ports = give_all(store, ports, PORT_CONFIG, |port, to| {
            abi::set(to, 0, &port.mac.to_le_bytes());
            abi::set(to, 8, &[port.link.state as u8]);
            abi::set(to, 12, &port.link.speed_mbps.to_le_bytes());
            abi::set(to, 16, &port.link.mtu.to_le_bytes());
            abi::set(to, 20, &port.queues.to_le_bytes());
        })?;
        let parameters = flat(offered, bounds, ports);
        self.configure
            .call(store, parameters, CONFIGURED, configured)
    }

    fn read_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
    ) -> Result<u64> {
        let parameters = (bar.into(), offset, width.into());
        self.read_register.call(store, parameters)
    }

    fn write_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Result<bool> {
        let parameters = (bar.into(), offset, width.into(), value);
        let more = self.write_register.call(store, parameters);
        more.map(boolean)
    }

    fn service(&mut self, store: &mut Store<HostState>) -> Result<bool> {
        self.service.call(store, ()).map(boolean)
    }

    fn received(
        &mut self,
        store: &mut Store<HostState>,
        port: u32,
        packets: &[RxPacket],
    ) -> Result<bool> {
        let (address, count) = give_all(store, packets, RX_PACKET, |packet, to| {
            abi::set(to, 0, &packet.id.to_le_bytes());
            abi::set(to, 4, &packet.length.to_le_bytes());
            abi::set(to, 8, &packet.vlan_tci.to_le_bytes());
            abi::set(to, 10, &packet.flags.bits().to_le_bytes());
            abi::set(to, 12, &packet.hash.to_le_bytes());
        })?;
        let more = self.received.call(store, (port, 0, address, count));
        more.map(boolean)
    }

    fn transmitted(
        &mut self,
        store: &mut Store<HostState>,
        port: u32,
        packets: &[TxCompletion],
    ) -> Result<bool> {
        let (address, count) = give_all(store, packets, TX_COMPLETION, |packet, to| {
            abi::set(to, 0, &packet.id.to_le_bytes());
            abi::set(to, 4, &[packet.status as u8]);
        })?;
        let more = self.transmitted.call(store, (port, 0, address, count));
        more.map(boolean)
    }

    fn link_changed(&mut self, store: &mut Store<HostState>, port: u32, link: Link) -> Result<()> {
        let parameters = (port, link.state as u32, link.speed_mbps, link.mtu.into());
        self.link_changed.call(store, parameters)
    }

    fn windows_changed(
        &mut self,
        store: &mut Store<HostState>,
        offsets: &[u32],
        present: bool,
    ) -> Result<()> {
        let (address, count) = give_all(store, offsets, (4, 4), |offset, to| {
            abi::set(to, 0, &offset.to_le_bytes());
        })?;
        self.windows_changed
            .call(store, (address, count, present.into()))
    }

    fn reset(&mut self, store: &mut Store<HostState>) -> Result<()> {
        self.reset.call(store, ())
    }

    fn save(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        self.save.call(store, (), LIST, |list| {
            list.bytes(0, ("bytes of a saved state", bounds::STATE_BYTES))
        })
    }

    fn restore(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> Result<Result<(), StateRefusal>> {
        let state = give(store, state)?;
        self.restore.call(store, state, RESTORED, restored)
    }

    fn recover(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
        seen: &Observations,
    ) -> Result<Result<(), StateRefusal>> {
        let state = give(store, state)?;
        let doorbells = give_all(store, &seen.doorbells, REGISTER_WRITE, |write, to| {
            abi::set(to, 0, &[write.bar]);
            abi::set(to, 8, &write.offset.to_le_bytes());
            abi::set(to, 16, &write.value.to_le_bytes());
        })?;
        let transmitted = give_all(store, &seen.transmitted, HANDED_OVER, |last, to| {
            abi::set(to, 0, &last.port.to_le_bytes());
            abi::set(to, 4, &last.queue.to_le_bytes());
            abi::set(to, 8, &last.id.to_le_bytes());
        })?;
        let skip = give_all(store, &seen.skip, (8, 8), |entry, to| {
            abi::set(to, 0, &entry.to_le_bytes());
        })?;
        let parameters = (
            state.0,
            state.1,
            doorbells.0,
            doorbells.1,
            transmitted.0,
            transmitted.1,
            skip.0,
            skip.1,
        );
        self.recover.call(store, parameters, RESTORED, restored)
    }

    fn announce(&mut self, store: &mut Store<HostState>, event: DeviceEvent) -> Result<()> {
        self.announce.call(store, event as u32)
    }

    fn inspect(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        self.inspect.call(store, (), LIST, |list| {
            list.bytes(
                0,
                ("bytes of what `inspect` returns", bounds::INSPECT_BYTES),
            )
        })
    }
}

fn no_case(of: &str, case: u8) -> wasmtime::Error {
    format_err!("returned case {case} of {of}, which does not exist")
}

/// The parameters of `configure`, as the canonical ABI passes them.
fn flat(offered: Features, bounds: &Bounds, ports: List) -> FlatConfiguration {
    (
        offered.bits().into(),
        bounds.arena_bytes,
        bounds.windows,
        bounds.window_pages,
        bounds.copy_bytes,
        bounds.packets,
        bounds.segments,
        bounds.buffers,
        bounds.state_bytes,
        bounds.inspect_bytes,
        bounds.line_bytes,
        ports.0,
        ports.1,
    )
}

fn description(record: Record<'_>) -> Result<Description> {
    let bars = record.records(32, BAR, ("memory BARs", bounds::BARS))?;
    let bars = bars.map(|bar| Bar {
        index: bar.u8(0),
        size: bar.u64(8),
    });
    let most = ("ranges of doorbells", bounds::DOORBELL_RANGES);
    let doorbells = record.records(64, DOORBELLS, most)?;
    let doorbells = doorbells.map(|range| DoorbellRange {
        bar: range.u8(0),
        offset: range.u64(8),
        length: range.u64(16),
        key: range.u64(24),
    });
    let most = ("formats of saved states", bounds::STATE_FORMATS);
    let formats = record.records(56, (4, 4), most)?;
    Ok(Description {
        version: Version {
            name: record.bytes(0, ("bytes of the device's name", bounds::NAME_BYTES))?,
            build: record.bytes(8, ("bytes of the build's version", bounds::BUILD_BYTES))?,
        },
        pci: PciIdentity {
            vendor_id: record.u16(16),
            device_id: record.u16(18),
            subsystem_vendor_id: record.u16(20),
            subsystem_id: record.u16(22),
            revision_id: record.u8(24),
            class_code: record.u32(28),
        },
        bars: bars.collect(),
        msix_vectors: record.u16(40),
        max_ports: record.u32(44),
        saved_state_writes: match record.u8(48) {
            0 => None,
            1 => Some(record.u32(52)),
            case => return Err(no_case("option", case)),
        },
        saved_state_reads: formats.map(|format| format.u32(0)).collect(),
        doorbells: doorbells.collect(),
    })
}

fn configured(result: Record<'_>) -> Result<Result<Features, ConfigureError>> {
    Ok(Err(match (result.u8(0), result.u8(1)) {
        (0, features) => return Ok(Ok(Features::from_bits_truncate(features))),
        (1, 0) => ConfigureError::NoPorts,
        (1, 1) => ConfigureError::TooManyPorts,
        (1, 2) => ConfigureError::InvalidMac,
        (1, 3) => ConfigureError::InvalidMtu,
        (1, 4) => ConfigureError::Repeated,
        (1, 5) => ConfigureError::InvalidQueues,
        (1, case) => return Err(no_case("configure-error", case)),
        (case, _) => return Err(no_case("result", case)),
    }))
}

fn restored(result: Record<'_>) -> Result<Result<(), StateRefusal>> {
    let words = || result.bytes(8, ("bytes of the words of a refusal", bounds::WORDS_BYTES));
    Ok(Err(match (result.u8(0), result.u8(4)) {
        (0, _) => return Ok(Ok(())),
        (1, 0) => StateRefusal::NotConfigured,
        (1, 1) => StateRefusal::Version(result.u32(8)),
        (1, 2) => StateRefusal::Malformed(words()?),
        (1, 3) => StateRefusal::Mismatch(words()?),
        (1, 4) => StateRefusal::Unsupported(words()?),
        (1, case) => return Err(no_case("restore-error", case)),
        (case, _) => return Err(no_case("result", case)),
    }))
}
