//! Guest instances, called directly or through the component model.

use std::{thread, time::Duration};

use wasmtime::{
    CodeBuilder, Config, Engine, Inlining, Linker, Module, Result, Store, TypedFunc, bail,
    component, format_err,
};

use crate::compose::{self, Join};
use crate::guest::{self, Access, EXPORTS, PAGES, WINDOW};
use crate::pages::Pages;

/// The same values as in the host (`host/src/runtime`).
const RESERVATION: u64 = 1 << 32;
const GUARD: u64 = 32 << 20;
const STACK: usize = 512 << 10;
const TICK: Duration = Duration::from_millis(10);

/// What the parameters of an export are: those of the device's `write-register`.
type Parameters = (u32, u64, u32, u64);

/// A store's data, which the builtins read by address.
#[repr(C)]
pub struct HostState {
    base: u64,
    length: u64,
    /// The sum of the guest's arguments, so that the host's function has an effect.
    noted: u64,
}

const _: () = {
    assert!(std::mem::offset_of!(HostState, base) == 0);
    assert!(std::mem::offset_of!(HostState, length) == 8);
};

/// How much of the builtins the compiler copies into their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inlined {
    /// Nothing, which is the host's setting.
    Nothing,
    /// Up to wasmtime's default bounds on size.
    AsDefault,
    /// Everything.
    Everything,
}

/// Makes an engine with the host's settings, whose epoch advances until the end.
///
/// # Errors
///
/// If this machine can't run it.
pub fn engine(inlined: Inlined) -> Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .memory_reservation(RESERVATION)
        .memory_guard_size(GUARD)
        .memory_may_move(false)
        .memory_init_cow(false);
    if inlined != Inlined::Nothing {
        config.compiler_inlining(Inlining::Yes);
    }
    if inlined == Inlined::Everything {
        // SAFETY: they bound how large functions become by inlining, and nothing else.
        unsafe {
            config.cranelift_flag_set("wasmtime_inlining_sum_size_threshold", "1000000");
        }
    }
    let engine = Engine::new(&config)?;
    let ticking = engine.weak();
    thread::Builder::new()
        .name("deadline".into())
        .spawn(move || {
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        })?;
    Ok(engine)
}

/// An instance with its functions.
pub struct Machine {
    store: Store<HostState>,
    functions: Functions,
    has_pages: bool,
}

/// The exports, in the order of their names.
enum Functions {
    Direct([TypedFunc<Parameters, u32>; 3]),
    Model([component::TypedFunc<Parameters, (u32,)>; 3]),
}

/// An export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// Returns at once.
    Empty,
    /// Calls the host.
    Notify,
    /// Reads entries, and publishes completions.
    Batch,
}

impl Machine {
    /// Instantiates the core module, to be called directly, with the pages in its memory.
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn direct(engine: &Engine, pages: &Pages) -> Result<Self> {
        let module = Module::new(engine, guest::module(Access::Window))?;
        let mut linker = Linker::new(engine);
        linker.func_wrap(
            "host",
            "note",
            |mut caller: wasmtime::Caller<'_, HostState>, kind: u32, value: u64| {
                note(caller.data_mut(), kind, value)
            },
        )?;
        let mut store = store(engine, pages);
        let instance = linker.instantiate(&mut store, &module)?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| format_err!("the module exports no memory"))?;
        if memory.data_size(&store) < WINDOW + PAGES {
            bail!("the window does not fit the memory");
        }
        // SAFETY: the bytes belong to the memory, which wasmtime mapped, and `store`,
        // which is borrowed by nobody, is what could refer to them.
        unsafe { pages.lay(memory.data_ptr(&store).add(WINDOW))? };
        let [empty, notify, batch] = EXPORTS.map(|name| instance.get_typed_func(&mut store, name));
        Ok(Self {
            functions: Functions::Direct([empty?, notify?, batch?]),
            store,
            has_pages: true,
        })
    }

    /// Instantiates the same code in a component, to be called through the component
    /// model; its rings are the pages, by builtins, or memory of its own.
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn model(engine: &Engine, pages: &Pages, access: Access, join: Join) -> Result<Self> {
        let component = match access {
            Access::Window => component::Component::new(engine, guest::component(access))?,
            Access::Words(_) | Access::Completions => {
                let mut builder = CodeBuilder::new(engine);
                // SAFETY: the code runs in a store of `HostState`, whose first words are
                // the address and the length of pages that stay mapped. (Without a check,
                // `Check::Nothing`, it is the guest of this program that keeps to them.)
                unsafe { builder.expose_unsafe_intrinsics("unsafe-intrinsics") };
                compose::compile(&mut builder, access, join)?
            }
        };
        let mut linker = component::Linker::new(engine);
        linker.instance("host")?.func_wrap(
            "note",
            |mut store: wasmtime::StoreContextMut<'_, HostState>, (kind, value): (u32, u64)| {
                Ok((note(store.data_mut(), kind, value),))
            },
        )?;
        let mut store = store(engine, pages);
        let instance = linker.instantiate(&mut store, &component)?;
        let [empty, notify, batch] = EXPORTS.map(|name| instance.get_typed_func(&mut store, name));
        Ok(Self {
            functions: Functions::Model([empty?, notify?, batch?]),
            store,
            has_pages: access != Access::Window,
        })
    }

    /// Calls an export.
    ///
    /// # Errors
    ///
    /// If it traps.
    #[inline]
    pub fn call(&mut self, export: Export, position: u64, count: u64) -> Result<u32> {
        let parameters = (0, position, 8, count);
        match &self.functions {
            Functions::Direct(all) => all[export as usize].call(&mut self.store, parameters),
            Functions::Model(all) => {
                let (result,) = all[export as usize].call(&mut self.store, parameters)?;
                Ok(result)
            }
        }
    }

    /// Returns whether it accesses the pages, and not memory of its own.
    pub fn has_pages(&self) -> bool {
        self.has_pages
    }

    /// Shortens the pages that builtins can access by a number of bytes.
    pub fn shorten(&mut self, bytes: u64) {
        self.store.data_mut().length -= bytes;
    }
}

fn store(engine: &Engine, pages: &Pages) -> Store<HostState> {
    let state = HostState {
        base: pages.address(),
        length: PAGES as u64,
        noted: 0,
    };
    let mut store = Store::new(engine, state);
    // The epoch is compared, as in the host, and never reached.
    store.set_epoch_deadline(u64::MAX / 2);
    store
}

fn note(state: &mut HostState, kind: u32, value: u64) -> u32 {
    state.noted = state.noted.wrapping_add(value);
    kind
}
