//! The built-in component, compiled before this program was built, so that it
//! need not be compiled when the program starts.

#![allow(unsafe_code)]

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

use crate::runtime::Code;

/// The wasm and, behind it, what it and its module were compiled to, the length
/// of the first before them; empty if there was nothing yet when this program was
/// built.
const FILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/device.cwasm"));

/// Compiles a component to what a build embeds.
pub fn precompile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>> {
    let component = engine.precompile_component(wasm)?;
    let mut file = wasm.to_vec();
    file.extend((component.len() as u64).to_le_bytes());
    file.extend(component);
    if let Some(module) = Code::module_of(wasm) {
        file.extend(engine.precompile_module(module)?);
    }
    Ok(file)
}

/// What this wasm was compiled to. None if this build has none, has that of
/// another component, or was made on a machine with another processor.
pub fn load(engine: &Engine, wasm: &[u8]) -> Option<(Component, Option<Module>)> {
    let (length, compiled) = FILE.strip_prefix(wasm)?.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (component, module) = compiled.split_at_checked(length)?;
    // SAFETY: these bytes are part of this program: whoever can choose them
    // can choose its code as well. wasmtime checks that they were made by the
    // same version with the same settings, and for this processor.
    let loaded = unsafe {
        Component::deserialize(engine, component).and_then(|component| {
            let module = (!module.is_empty()).then(|| Module::deserialize(engine, module));
            Ok((component, module.transpose()?))
        })
    };
    loaded
        .inspect_err(|error| tracing::info!("the component is compiled again: {error:#}"))
        .ok()
}
