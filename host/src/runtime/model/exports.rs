//! Calls the exports through wasmtime's component model, in either version of the contract.

use wasmtime::component::{ComponentNamedList, Instance, InstancePre, Lift, Lower, TypedFunc};
use wasmtime::{AsContextMut, Result, Store, bail, format_err};

use super::types::{Description, Observations, TxCompletion};
use super::{first, second};
use crate::contract::{self, Bounds, ConfigureError, DeviceEvent, Features, Link, StateRefusal};
use crate::runtime::bounds;
use crate::runtime::exports::Exports;
use crate::runtime::state::HostState;

type Returns<P, R> = TypedFunc<P, (R,)>;
/// Port, queue and a list.
type Batch<T> = (u32, u32, Vec<T>);

/// The functions of an instance that both versions have.
struct ByModel {
    describe: Returns<(), Description>,
    read_register: Returns<(u8, u64, u8), u64>,
    write_register: Returns<(u8, u64, u8, u64), bool>,
    service: Returns<(), bool>,
    transmitted: Returns<Batch<TxCompletion>, bool>,
    reset: TypedFunc<(), ()>,
    save: Returns<(), Vec<u8>>,
    inspect: Returns<(), Vec<u8>>,
    own: Own,
}

/// The functions whose types differ.
enum Own {
    First {
        configure: Returns<(Vec<first::PortConfig>,), Result<(), first::ConfigureError>>,
        received: Returns<Batch<first::RxPacket>, bool>,
        link_changed: TypedFunc<(u32, bool), ()>,
        restore: Returns<(Vec<u8>,), Result<(), first::RestoreError>>,
        recover: Returns<(Vec<u8>, Observations), Result<(), first::RestoreError>>,
        request_reset: TypedFunc<(), ()>,
    },
    Second {
        configure: Returns<
            (second::Features, second::Bounds, Vec<second::PortConfig>),
            Result<second::Features, second::ConfigureError>,
        >,
        received: Returns<Batch<second::RxPacket>, bool>,
        link_changed: TypedFunc<(u32, second::Link), ()>,
        windows_changed: TypedFunc<(Vec<u32>, bool), ()>,
        restore: Returns<(Vec<u8>,), Result<(), second::RestoreError>>,
        recover: Returns<(Vec<u8>, Observations), Result<(), second::RestoreError>>,
        announce: TypedFunc<(second::DeviceEvent,), ()>,
    },
}

/// Makes an instance.
///
/// # Errors
///
/// The error of wasmtime, or a function is missing.
pub fn instantiate(
    component: &InstancePre<HostState>,
    store: &mut Store<HostState>,
) -> Result<Box<dyn Exports>> {
    let instance = component.instantiate(&mut *store)?;
    let mut find = Find::new(instance, store)?;
    let own = if find.first {
        Own::First {
            configure: find.function("configure")?,
            received: find.function("received")?,
            link_changed: find.function("link-changed")?,
            restore: find.function("restore")?,
            recover: find.function("recover")?,
            request_reset: find.function("request-reset")?,
        }
    } else {
        Own::Second {
            configure: find.function("configure")?,
            received: find.function("received")?,
            link_changed: find.function("link-changed")?,
            windows_changed: find.function("windows-changed")?,
            restore: find.function("restore")?,
            recover: find.function("recover")?,
            announce: find.function("announce")?,
        }
    };
    Ok(Box::new(ByModel {
        describe: find.function("describe")?,
        read_register: find.function("read-register")?,
        write_register: find.function("write-register")?,
        service: find.function("service")?,
        transmitted: find.function("transmitted")?,
        reset: find.function("reset")?,
        save: find.function("save")?,
        inspect: find.function("inspect")?,
        own,
    }))
}

/// Finds functions of the interface `device`.
struct Find<'a> {
    instance: Instance,
    store: &'a mut Store<HostState>,
    device: wasmtime::component::ComponentExportIndex,
    /// Whether it is of version 0.1.0.
    first: bool,
}

impl<'a> Find<'a> {
    fn new(instance: Instance, store: &'a mut Store<HostState>) -> Result<Self> {
        for (name, first) in [
            ("manatee:device/device@0.2.0", false),
            ("manatee:device/device@0.1.0", true),
        ] {
            if let Some(device) = instance.get_export_index(&mut *store, None, name) {
                return Ok(Self {
                    instance,
                    store,
                    device,
                    first,
                });
            }
        }
        bail!("it exports no device")
    }

    fn function<P, R>(&mut self, name: &str) -> Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let index = self
            .instance
            .get_export_index(&mut *self.store, Some(&self.device), name)
            .ok_or_else(|| format_err!("it lacks the function `{name}`"))?;
        let function = self.instance.get_typed_func(&mut *self.store, index);
        function.map_err(|error| error.context(format!("the function `{name}`")))
    }
}

/// Calls a function that returns no list, of which wasmtime copies none then.
fn call<P, R>(function: &TypedFunc<P, R>, store: &mut Store<HostState>, parameters: P) -> Result<R>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    store.set_hostcall_fuel(usize::MAX);
    function.call(store, parameters)
}

/// Calls a function that returns lists, of up to this many bytes; `what` is for messages.
fn call_for_lists<P, R>(
    function: &Returns<P, R>,
    store: &mut Store<HostState>,
    parameters: P,
    (what, most): (&str, usize),
) -> Result<R>
where
    P: ComponentNamedList + Lower,
    R: Lift + 'static,
    (R,): ComponentNamedList + Lift,
{
    store.as_context_mut().set_hostcall_fuel(most);
    let (result,) = function.call(store, parameters).map_err(|error| {
        // wasmtime has no type for this.
        if format!("{error:#}").contains("fuel allocated for hostcalls") {
            return format_err!("{what}: more than the {most} that the contract allows");
        }
        error
    })?;
    Ok(result)
}

const STATE: (&str, usize) = ("bytes of a saved state", bounds::STATE_BYTES);
const INSPECTION: (&str, usize) = ("bytes of what `inspect` returns", bounds::INSPECT_BYTES);
const DESCRIPTION: (&str, usize) = (
    "bytes of the lists that `describe` returns",
    bounds::DESCRIPTION_BYTES,
);
/// What is passed to imports meanwhile counts too.
const RESTORING: (&str, usize) = ("bytes of lists while a state is restored", 4 << 20);

/// Checks the text of a refusal.
fn refused<E: Into<StateRefusal>>(result: Result<(), E>) -> Result<Result<(), StateRefusal>> {
    let refusal = match result {
        Ok(()) => return Ok(Ok(())),
        Err(error) => error.into(),
    };
    if let StateRefusal::Malformed(words)
    | StateRefusal::Mismatch(words)
    | StateRefusal::Unsupported(words) = &refusal
    {
        let what = "bytes of the words of a refusal";
        bounds::check(what, words.len(), bounds::WORDS_BYTES)?;
    }
    Ok(Err(refusal))
}

/// Checks the bounds that are narrower than the one of all lists together.
fn checked(description: Description) -> Result<contract::Description> {
    let description = contract::Description::from(description);
    let contract::Description {
        version,
        bars,
        saved_state_reads,
        doorbells,
        ..
    } = &description;
    let (name, build) = (&version.name, &version.build);
    bounds::check("bytes of the device's name", name.len(), bounds::NAME_BYTES)?;
    bounds::check(
        "bytes of the build's version",
        build.len(),
        bounds::BUILD_BYTES,
    )?;
    bounds::check("memory BARs", bars.len(), bounds::BARS)?;
    let formats = saved_state_reads.len();
    bounds::check("formats of saved states", formats, bounds::STATE_FORMATS)?;
    bounds::check(
        "ranges of doorbells",
        doorbells.len(),
        bounds::DOORBELL_RANGES,
    )?;
    Ok(description)
}

/// Returns the items of a list, as a version of the contract has them.
fn list<'a, T, U: From<&'a T>>(items: &'a [T]) -> Vec<U> {
    items.iter().map(U::from).collect()
}

impl Exports for ByModel {
    fn describe(&mut self, store: &mut Store<HostState>) -> Result<contract::Description> {
        checked(call_for_lists(&self.describe, store, (), DESCRIPTION)?)
    }

    fn configure(
        &mut self,
        store: &mut Store<HostState>,
        offered: Features,
        bounds: &Bounds,
        ports: &[contract::PortConfig],
    ) -> Result<Result<Features, ConfigureError>> {
        match &self.own {
            Own::First { configure, .. } => {
                let (configured,) = call(configure, store, (list(ports),))?;
                Ok(configured.map(|()| Features::empty()).map_err(Into::into))
            }
            Own::Second { configure, .. } => {
                let offered = offered - Features::WINDOWS;
                let parameters = (offered.into(), bounds.into(), list(ports));
                let (configured,) = call(configure, store, parameters)?;
                Ok(configured.map(Into::into).map_err(Into::into))
            }
        }
    }

    fn read_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
    ) -> Result<u64> {
        Ok(call(&self.read_register, store, (bar, offset, width))?.0)
    }

    fn write_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Result<bool> {
        Ok(call(&self.write_register, store, (bar, offset, width, value))?.0)
    }

    fn service(&mut self, store: &mut Store<HostState>) -> Result<bool> {
        Ok(call(&self.service, store, ())?.0)
    }

    fn received(
        &mut self,
        store: &mut Store<HostState>,
        (port, queue): (u32, u32),
        packets: &[contract::RxPacket],
    ) -> Result<bool> {
        let (more,) = match &self.own {
            Own::First { received, .. } => call(received, store, (port, queue, list(packets)))?,
            Own::Second { received, .. } => call(received, store, (port, queue, list(packets)))?,
        };
        Ok(more)
    }

    fn transmitted(
        &mut self,
        store: &mut Store<HostState>,
        (port, queue): (u32, u32),
        packets: &[contract::TxCompletion],
    ) -> Result<bool> {
        Ok(call(&self.transmitted, store, (port, queue, list(packets)))?.0)
    }

    fn link_changed(&mut self, store: &mut Store<HostState>, port: u32, link: Link) -> Result<()> {
        match &self.own {
            Own::First { link_changed, .. } => {
                call(link_changed, store, (port, first::carries(link)))
            }
            Own::Second { link_changed, .. } => call(link_changed, store, (port, link.into())),
        }
    }

    fn windows_changed(
        &mut self,
        store: &mut Store<HostState>,
        offsets: &[u32],
        present: bool,
    ) -> Result<()> {
        match &self.own {
            Own::First { .. } => Ok(()),
            Own::Second {
                windows_changed, ..
            } => call(windows_changed, store, (offsets.to_vec(), present)),
        }
    }

    fn reset(&mut self, store: &mut Store<HostState>) -> Result<()> {
        call(&self.reset, store, ())
    }

    fn save(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        call_for_lists(&self.save, store, (), STATE)
    }

    fn restore(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> Result<Result<(), StateRefusal>> {
        let state = (state.to_vec(),);
        match &self.own {
            Own::First { restore, .. } => {
                refused(call_for_lists(restore, store, state, RESTORING)?)
            }
            Own::Second { restore, .. } => {
                refused(call_for_lists(restore, store, state, RESTORING)?)
            }
        }
    }

    fn recover(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
        seen: &contract::Observations,
    ) -> Result<Result<(), StateRefusal>> {
        let state = (state.to_vec(), seen.into());
        match &self.own {
            Own::First { recover, .. } => {
                refused(call_for_lists(recover, store, state, RESTORING)?)
            }
            Own::Second { recover, .. } => {
                refused(call_for_lists(recover, store, state, RESTORING)?)
            }
        }
    }

    fn announce(&mut self, store: &mut Store<HostState>, event: DeviceEvent) -> Result<()> {
        match (&self.own, event) {
            (Own::First { request_reset, .. }, DeviceEvent::ResetRequest) => {
                call(request_reset, store, ())
            }
            // It knows no other.
            (Own::First { .. }, _) => Ok(()),
            (Own::Second { announce, .. }, event) => call(announce, store, (event.into(),)),
        }
    }

    fn inspect(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        call_for_lists(&self.inspect, store, (), INSPECTION)
    }
}
