//! The engine that compiles and runs all components of a process.

use std::sync::{Arc, OnceLock};

use wasmtime::{Config, Engine};

use super::deadline::Ticker;
use super::state::HostState;
use super::{direct, linear_memory, model};

/// The address space of a 32-bit component.
const RESERVATION: u64 = 1 << 32;
/// The guard region after it, for accesses with an offset.
const GUARD: u64 = 32 << 20;
const STACK: usize = 512 << 10;

/// The runtime that all devices of a process share.
pub struct Runtime {
    /// Compiles and runs.
    pub engine: Engine,
    pub(super) linker: wasmtime::component::Linker<HostState>,
    pub(super) direct_linker: wasmtime::Linker<HostState>,
    pub(super) ticker: Ticker,
}

/// The runtime could not be set up.
#[derive(Clone, Debug, thiserror::Error)]
#[error("setting up the wasm runtime: {0}")]
pub struct RuntimeError(Arc<str>);

impl Runtime {
    /// Returns the runtime of this process.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`] if this machine can't run it; the answer stays the
    /// same for the whole process.
    pub fn get() -> Result<&'static Self, RuntimeError> {
        static RUNTIME: OnceLock<Result<Runtime, RuntimeError>> = OnceLock::new();
        let runtime = RUNTIME
            .get_or_init(|| Self::new().map_err(|error| RuntimeError(format!("{error:#}").into())));
        runtime.as_ref().map_err(Clone::clone)
    }

    fn new() -> wasmtime::Result<Self> {
        let engine = Engine::new(&settings())?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self {
            linker: model::linker(&engine)?,
            direct_linker: direct::linker(&engine)?,
            engine,
            ticker,
        })
    }
}

/// Returns how components are compiled and run. Code that was compiled with others is refused.
pub fn settings() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .memory_reservation(RESERVATION)
        .memory_guard_size(GUARD)
        .memory_may_move(false)
        .memory_init_cow(false)
        .with_host_memory(Arc::new(linear_memory::Creator));
    config
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}
