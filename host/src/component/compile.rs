//! Compiling components.

use std::path::Path;

use wasmtime::Module;
use wasmtime::component::Component as WasmComponent;

use super::{Component, ComponentError, read};
use crate::precompiled::{Compiled, Digest, Processor};
use crate::runtime::{PreparedComponent, Runtime};
use manatee_common::ration::{MAX_LINE, clean};

impl Component {
    /// Compiles a component from a file, in this process: see
    /// [`from_bytes`](Self::from_bytes).
    ///
    /// # Errors
    ///
    /// [`ComponentError`], which names the file and the way out.
    pub fn from_file(path: &Path) -> Result<Self, ComponentError> {
        let name = path.display().to_string();
        Self::from_bytes(&read(path)?, &name)
    }

    /// Returns the component that this build ships, compiled for a later build to
    /// embed, and for this machine.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Runtime`] if this machine can't run components.
    pub fn precompile() -> Result<Vec<u8>, ComponentError> {
        Self::precompile_for(Processor::Own)
    }

    /// Returns the component as [`precompile`](Self::precompile) does, for other processors. A
    /// build may embed several of these, one after the other, those for the newest processors
    /// first: the first that a machine can run is loaded there.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Runtime`] if this machine can't run components;
    /// [`ComponentError::Invalid`] if it can't compile them for such a processor.
    pub fn precompile_for(processor: Processor) -> Result<Vec<u8>, ComponentError> {
        let (bytes, name) = (manatee_component::BYTES, "the embedded component");
        let compiled = match processor {
            Processor::Own => Self::compile(bytes, name),
            _ => processor
                .engine()
                .and_then(|engine| Compiled::new(&engine, processor, bytes))
                .map_err(|error| invalid(name, &error)),
        };
        Ok(compiled?.as_bytes().to_vec())
    }

    /// Compiles a component in this process; `name` is for messages.
    ///
    /// The compiler has no bounds of time or memory: 100 KB can take minutes and
    /// gigabytes. Compile a component that is not trusted in a process of its own,
    /// as the command does, and hand what [`compile`](Self::compile) returns there to
    /// [`load`](Self::load) here.
    ///
    /// # Errors
    ///
    /// [`ComponentError`].
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, ComponentError> {
        check_kind(bytes, name)?;
        let runtime = Runtime::get()?;
        let (component, module) = compile(runtime, bytes);
        let component = component.map_err(|error| invalid(name, &error))?;
        let digest = Digest::of(bytes);
        Self::from_compiled(runtime, &component, module.as_ref(), digest, name)
    }

    /// Compiles a component to machine code that a process of the same build can
    /// [`load`](Self::load). What is compiled is checked when it is loaded.
    ///
    /// # Errors
    ///
    /// [`ComponentError`].
    pub fn compile(bytes: &[u8], name: &str) -> Result<Compiled, ComponentError> {
        check_kind(bytes, name)?;
        let engine = &Runtime::get()?.engine;
        Compiled::new(engine, Processor::Own, bytes).map_err(|error| invalid(name, &error))
    }
}

/// Refuses what is not even a component.
fn check_kind(bytes: &[u8], name: &str) -> Result<(), ComponentError> {
    match bytes {
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(ComponentError::CoreModule(name.to_owned())),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(ComponentError::NotWasm(name.to_owned())),
    }
}

fn invalid(name: &str, error: &wasmtime::Error) -> ComponentError {
    ComponentError::Invalid {
        name: name.to_owned(),
        error: clean(format!("{error:#}").as_bytes(), MAX_LINE),
    }
}

/// Compiles a component and, in parallel, the module that it is made of. A module
/// that can't be compiled is none: the component says why.
fn compile(runtime: &Runtime, bytes: &[u8]) -> (wasmtime::Result<WasmComponent>, Option<Module>) {
    let engine = &runtime.engine;
    std::thread::scope(|scope| {
        let module = PreparedComponent::module_of(bytes);
        let module = module.map(|module| scope.spawn(|| Module::from_binary(engine, module).ok()));
        let component = WasmComponent::from_binary(engine, bytes);
        let module = module.and_then(|thread| thread.join().ok().flatten());
        (component, module)
    })
}
