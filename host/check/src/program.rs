//! A component composed with the tests to a program, which runs once for each requirement.

use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store, StoreLimits, StoreLimitsBuilder, Trap, UpdateDeadline};
use wasmtime_wasi::p2::bindings::sync::CommandPre;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::error::CheckError;

/// The most bytes that a run may print.
const MAX_OUTPUT: usize = 1 << 20;
/// The limit of linear memory of a testbed and a runner: guest memory,
/// and some more.
const OWN_MEMORY: usize = 64 << 20;
/// More core instances, memories or tables than any composition has.
const MAX_ITEMS: usize = 1000;

/// The engine and linker, shared by all checks of a process.
struct Checker {
    engine: Engine,
    linker: Linker<State>,
}

impl Checker {
    fn get() -> Result<&'static Self, CheckError> {
        static CHECKER: OnceLock<Result<Checker, String>> = OnceLock::new();
        let checker = CHECKER.get_or_init(|| Self::new().map_err(|error| format!("{error:#}")));
        checker
            .as_ref()
            .map_err(|error| CheckError::Runtime(error.clone()))
    }

    fn new() -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true).concurrency_support(false);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        Ok(Self { engine, linker })
    }

    /// Runs a function, and interrupts its wasm after `time`.
    fn run_within<T>(
        &self,
        time: Duration,
        mut store: Store<State>,
        run: impl FnOnce(&mut Store<State>) -> T,
    ) -> T {
        let ends = Instant::now() + time;
        store.set_epoch_deadline(1);
        // The engine's epoch also advances for other runs.
        store.epoch_deadline_callback(move |_| {
            if Instant::now() < ends {
                return Ok(UpdateDeadline::Continue(1));
            }
            Err(Trap::Interrupt.into())
        });
        thread::scope(|scope| {
            let (running, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                let left = ends.saturating_duration_since(Instant::now());
                if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                    self.engine.increment_epoch();
                }
            });
            let outcome = run(&mut store);
            drop(running);
            outcome
        })
    }
}

/// The WASI context of a run: arguments and standard output.
struct State {
    wasi: WasiCtx,
    resources: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

/// A composed program.
pub struct Program {
    checker: &'static Checker,
    command: CommandPre<State>,
}

impl Program {
    /// Composes and compiles a program.
    pub fn new(device: &[u8], name: &str) -> Result<Self, CheckError> {
        let checker = Checker::get()?;
        let misfit = |error: String| CheckError::Compose {
            name: name.to_owned(),
            error,
        };
        let program =
            manatee_compose::compose(device).map_err(|error| misfit(format!("{error:#}")))?;
        let command = Component::from_binary(&checker.engine, &program)
            .and_then(|program| checker.linker.instantiate_pre(&program))
            .and_then(CommandPre::new)
            .map_err(|error| misfit(format!("{error:#}")))?;
        Ok(Self { checker, command })
    }

    /// Runs a requirement on a new instance.
    pub fn attempt(&self, name: &str, time: Duration, memory: usize) -> Result<(), String> {
        let output = MemoryOutputPipe::new(MAX_OUTPUT);
        let wasi = WasiCtx::builder()
            .args(&["check", "--format", "json", "--exact", name])
            .stdout(output.clone())
            .build();
        let limits = StoreLimitsBuilder::new()
            .memory_size(memory.max(OWN_MEMORY))
            .instances(MAX_ITEMS)
            .memories(MAX_ITEMS)
            .tables(MAX_ITEMS)
            .table_elements(10_000)
            .build();
        let state = State {
            wasi,
            resources: ResourceTable::new(),
            limits,
        };
        let mut store = Store::new(&self.checker.engine, state);
        store.limiter(|state| &mut state.limits);
        let ended = self.checker.run_within(time, store, |store| {
            let command = self.command.instantiate(&mut *store)?;
            command.wasi_cli_run().call_run(store)
        });
        match ended {
            Ok(status) => verdict(&output.contents(), name, status.is_ok()),
            Err(error) if error.downcast_ref() == Some(&Trap::Interrupt) => {
                Err(format!("it had not ended after {time:?}"))
            }
            Err(error) => Err(format!("the device failed: {error:?}")),
        }
    }
}

/// Returns the verdict that the runner printed. The device can't print.
fn verdict(output: &[u8], name: &str, succeeded: bool) -> Result<(), String> {
    let events = output
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut results = events.filter(|event| event["type"] == "test" && event["name"] == name);
    let result = results.find(|event| event["event"] != "started");
    match result {
        Some(event) if event["event"] == "ok" && succeeded => Ok(()),
        Some(event) => {
            let text = event["stdout"].as_str();
            Err(text.unwrap_or("the test gave no reason").to_owned())
        }
        None => Err("the test ended early".to_owned()),
    }
}
