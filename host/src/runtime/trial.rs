//! Checks a component before it is used.

use wasmtime::component::Component;
use wasmtime::{Error, Module, Result};

use super::code::PreparedComponent;
use super::engine::Runtime;
use super::failure::Failure;
use super::instance::Instance;
use super::limits::Limits;
use super::state::HostState;

/// Checks that a component has the types of the world, and whether its module can be called
/// directly.
///
/// # Errors
///
/// The type that does not fit.
pub fn prepare(
    runtime: &Runtime,
    component: &Component,
    module: Option<&Module>,
) -> Result<PreparedComponent> {
    let code = PreparedComponent::of_component(runtime, component)?;
    let failed = |failure: Failure| Error::msg(failure.reason.to_string());
    instantiate(&code).map_err(failed)?;
    let Some(module) = module else {
        return Ok(code);
    };
    Ok(match with_module(&code, runtime, module) {
        Ok(direct) => direct,
        Err(failure) => code.without_module(failure.reason),
    })
}

fn with_module(
    code: &PreparedComponent,
    runtime: &Runtime,
    module: &Module,
) -> Result<PreparedComponent, Failure> {
    let direct = code.with_module(runtime, module);
    let direct = direct.map_err(|error| Failure::because(&format!("{error:#}")))?;
    instantiate(&direct)?;
    Ok(direct)
}

/// Creates an instance, which looks up its functions with their types.
fn instantiate(code: &PreparedComponent) -> Result<(), Failure> {
    let state = HostState::vacant(Limits::default());
    let state = state.map_err(|error| Failure::because(&error.to_string()))?;
    let tried = Instance::new(code, state);
    tried.map(drop).map_err(|(failure, _)| failure)
}
