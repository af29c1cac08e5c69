//! Calls the exports in the module.

use wasmtime::{
    Instance, InstancePre, Result, Store, TypedFunc, WasmParams, WasmResults, bail, format_err,
};

use super::abi::{self, Record};
use super::guest_abi::{GuestAbi, confined, heap_and_state, put};
use super::layout;
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

/// A function that returns the address of its result, and the one to call once the result was
/// read.
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
    store.data_mut().inside = Some(GuestAbi::new(memory, realloc));
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

/// A record's size and alignment.
macro_rules! shape {
    ($record:ident) => {
        (layout::$record::SIZE, layout::$record::ALIGN)
    };
}

/// Returns a list of plain integers, by their size.
const fn integers(size: u32) -> (usize, u32) {
    (size as usize, size)
}

impl Exports for Direct {
    fn describe(&mut self, store: &mut Store<HostState>) -> Result<Description> {
        self.describe
            .call(store, (), shape!(describe_returns), description)
    }

    fn configure(
        &mut self,
        store: &mut Store<HostState>,
        offered: Features,
        bounds: &Bounds,
        ports: &[PortConfig],
    ) -> Result<Result<Features, ConfigureError>> {
        let ports = give_all(store, ports, shape!(port_config), |port, to| {
            use layout::{link, port_config as at};
            abi::set(to, at::MAC, &port.mac.to_le_bytes());
            abi::set(to, at::LINK + link::STATE, &[port.link.state as u8]);
            abi::set(
                to,
                at::LINK + link::SPEED_MBPS,
                &port.link.speed_mbps.to_le_bytes(),
            );
            abi::set(to, at::LINK + link::MTU, &port.link.mtu.to_le_bytes());
            abi::set(to, at::QUEUES, &port.queues.to_le_bytes());
        })?;
        let parameters = flat(offered, bounds, ports);
        self.configure
            .call(store, parameters, shape!(configure_returns), configured)
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
        (port, queue): (u32, u32),
        packets: &[RxPacket],
    ) -> Result<bool> {
        let (address, count) = give_all(store, packets, shape!(rx_packet), |packet, to| {
            use layout::rx_packet as at;
            abi::set(to, at::ID, &packet.id.to_le_bytes());
            abi::set(to, at::LENGTH, &packet.length.to_le_bytes());
            abi::set(to, at::VLAN_TCI, &packet.vlan_tci.to_le_bytes());
            abi::set(to, at::FLAGS, &packet.flags.bits().to_le_bytes());
            abi::set(to, at::HASH, &packet.hash.to_le_bytes());
        })?;
        let more = self.received.call(store, (port, queue, address, count));
        more.map(boolean)
    }

    fn transmitted(
        &mut self,
        store: &mut Store<HostState>,
        (port, queue): (u32, u32),
        packets: &[TxCompletion],
    ) -> Result<bool> {
        let (address, count) = give_all(store, packets, shape!(tx_completion), |packet, to| {
            use layout::tx_completion as at;
            abi::set(to, at::ID, &packet.id.to_le_bytes());
            abi::set(to, at::STATUS, &[packet.status as u8]);
        })?;
        let more = self.transmitted.call(store, (port, queue, address, count));
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
        let (address, count) = give_all(store, offsets, integers(4), |offset, to| {
            abi::set(to, 0, &offset.to_le_bytes());
        })?;
        self.windows_changed
            .call(store, (address, count, present.into()))
    }

    fn reset(&mut self, store: &mut Store<HostState>) -> Result<()> {
        self.reset.call(store, ())
    }

    fn save(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        self.save.call(store, (), shape!(save_returns), |list| {
            list.bytes(0, ("bytes of a saved state", bounds::STATE_BYTES))
        })
    }

    fn restore(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> Result<Result<(), StateRefusal>> {
        let state = give(store, state)?;
        self.restore
            .call(store, state, shape!(restore_returns), restored)
    }

    fn recover(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
        seen: &Observations,
    ) -> Result<Result<(), StateRefusal>> {
        let state = give(store, state)?;
        let doorbells = give_all(
            store,
            &seen.doorbells,
            shape!(register_write),
            |write, to| {
                use layout::register_write as at;
                abi::set(to, at::BAR, &[write.bar]);
                abi::set(to, at::OFFSET, &write.offset.to_le_bytes());
                abi::set(to, at::VALUE, &write.value.to_le_bytes());
            },
        )?;
        let transmitted = give_all(store, &seen.transmitted, shape!(handed_over), |last, to| {
            use layout::handed_over as at;
            abi::set(to, at::PORT, &last.port.to_le_bytes());
            abi::set(to, at::QUEUE, &last.queue.to_le_bytes());
            abi::set(to, at::ID, &last.id.to_le_bytes());
        })?;
        let skip = give_all(store, &seen.skip, integers(8), |entry, to| {
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
        self.recover
            .call(store, parameters, shape!(recover_returns), restored)
    }

    fn announce(&mut self, store: &mut Store<HostState>, event: DeviceEvent) -> Result<()> {
        self.announce.call(store, event as u32)
    }

    fn inspect(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        self.inspect
            .call(store, (), shape!(inspect_returns), |list| {
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

/// Returns the parameters of `configure`, as the canonical ABI passes them.
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
    use layout::description as at;
    let most = ("memory BARs", bounds::BARS);
    let bars = record.records(at::BARS, shape!(bar), most)?;
    let bars = bars.map(|bar| Bar {
        index: bar.u8(layout::bar::INDEX),
        size: bar.u64(layout::bar::SIZE_FIELD),
    });
    let most = ("ranges of doorbells", bounds::DOORBELL_RANGES);
    let doorbells = record.records(at::DOORBELLS, shape!(doorbells), most)?;
    let doorbells = doorbells.map(|range| DoorbellRange {
        bar: range.u8(layout::doorbells::BAR),
        offset: range.u64(layout::doorbells::OFFSET),
        length: range.u64(layout::doorbells::LENGTH),
        key: range.u64(layout::doorbells::KEY),
    });
    let most = ("formats of saved states", bounds::STATE_FORMATS);
    let formats = record.records(at::SAVED_STATE_READS, integers(4), most)?;
    let text = |field, what| record.bytes(at::VERSION + field, what);
    Ok(Description {
        version: Version {
            name: text(
                layout::version::NAME,
                ("bytes of the device's name", bounds::NAME_BYTES),
            )?,
            build: text(
                layout::version::BUILD,
                ("bytes of the build's version", bounds::BUILD_BYTES),
            )?,
        },
        pci: pci_identity(record),
        bars: bars.collect(),
        msix_vectors: record.u16(at::MSIX_VECTORS),
        max_ports: record.u32(at::MAX_PORTS),
        saved_state_writes: match record.u8(at::SAVED_STATE_WRITES) {
            0 => None,
            1 => Some(record.u32(at::SAVED_STATE_WRITES_PAYLOAD)),
            case => return Err(no_case("option", case)),
        },
        saved_state_reads: formats.map(|format| format.u32(0)).collect(),
        doorbells: doorbells.collect(),
    })
}

fn pci_identity(description: Record<'_>) -> PciIdentity {
    use layout::description::PCI;
    use layout::pci_identity as at;
    PciIdentity {
        vendor_id: description.u16(PCI + at::VENDOR_ID),
        device_id: description.u16(PCI + at::DEVICE_ID),
        subsystem_vendor_id: description.u16(PCI + at::SUBSYSTEM_VENDOR_ID),
        subsystem_id: description.u16(PCI + at::SUBSYSTEM_ID),
        revision_id: description.u8(PCI + at::REVISION_ID),
        class_code: description.u32(PCI + at::CLASS_CODE),
    }
}

fn configured(result: Record<'_>) -> Result<Result<Features, ConfigureError>> {
    use layout::configure_error as case;
    let payload = result.u8(layout::configure_returns::PAYLOAD);
    match result.u8(0) {
        0 => return Ok(Ok(Features::from_bits_truncate(payload))),
        1 => {}
        case => return Err(no_case("result", case)),
    }
    Ok(Err(match usize::from(payload) {
        case::NO_PORTS => ConfigureError::NoPorts,
        case::TOO_MANY_PORTS => ConfigureError::TooManyPorts,
        case::INVALID_MAC => ConfigureError::InvalidMac,
        case::INVALID_MTU => ConfigureError::InvalidMtu,
        case::REPEATED => ConfigureError::Repeated,
        case::INVALID_QUEUES => ConfigureError::InvalidQueues,
        _ => return Err(no_case("configure-error", payload)),
    }))
}

/// Reads the result of `restore` and `recover`.
fn restored(result: Record<'_>) -> Result<Result<(), StateRefusal>> {
    use layout::restore_error as case;
    const ERROR: usize = layout::restore_returns::PAYLOAD;
    const PAYLOAD: usize = ERROR + case::PAYLOAD;
    let words = || {
        let most = ("bytes of the words of a refusal", bounds::WORDS_BYTES);
        result.bytes(PAYLOAD, most)
    };
    match result.u8(0) {
        0 => return Ok(Ok(())),
        1 => {}
        case => return Err(no_case("result", case)),
    }
    Ok(Err(match usize::from(result.u8(ERROR)) {
        case::NOT_CONFIGURED => StateRefusal::NotConfigured,
        case::VERSION => StateRefusal::Version(result.u32(PAYLOAD)),
        case::MALFORMED => StateRefusal::Malformed(words()?),
        case::MISMATCH => StateRefusal::Mismatch(words()?),
        case::UNSUPPORTED => StateRefusal::Unsupported(words()?),
        _ => return Err(no_case("restore-error", result.u8(ERROR))),
    }))
}
