//! The built-in component, compiled before this program was built, so that it
//! need not be compiled when the program starts.

#![allow(unsafe_code)]

use wasmtime::component::Component;
use wasmtime::{Engine, Result};

/// The wasm and, behind it, what it was compiled to; empty if there was
/// nothing yet when this program was built.
const FILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/device.cwasm"));

/// Compiles a component to what a build embeds.
pub fn precompile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>> {
    let mut file = wasm.to_vec();
    file.extend(engine.precompile_component(wasm)?);
    Ok(file)
}

/// What this wasm was compiled to. None if this build has none, has that of
/// another component, or was made on a machine with another processor.
pub fn load(engine: &Engine, wasm: &[u8]) -> Option<Component> {
    let compiled = FILE.strip_prefix(wasm).filter(|rest| !rest.is_empty())?;
    // SAFETY: these bytes are part of this program: whoever can choose them
    // can choose its code as well. wasmtime checks that they were made by the
    // same version with the same settings, and for this processor.
    let component = unsafe { Component::deserialize(engine, compiled) };
    component
        .inspect_err(|error| tracing::info!("the component is compiled again: {error:#}"))
        .ok()
}
