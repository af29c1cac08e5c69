//! What instances are made of.

use std::sync::Arc;

use wasmtime::component::{Component, InstancePre as ComponentPre};
use wasmtime::{InstancePre, Module, Result, Store};

use super::exports::Exports;
use super::instance::{Failure, Instance};
use super::state::{HostState, Limits};
use super::{Runtime, direct, model};

/// How instances of a component are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calls {
    /// In their module.
    Direct,
    /// By wasmtime's component model, because of this.
    Model(Arc<str>),
}

/// A component that fits the world, and the module inside if it can be called
/// directly.
#[derive(Clone)]
pub struct Code {
    component: ComponentPre<HostState>,
    module: Option<InstancePre<HostState>>,
    calls: Calls,
}

impl Code {
    /// Checks that a component has the types of the world, and whether its module
    /// can take its place.
    ///
    /// # Errors
    ///
    /// What does not fit.
    pub fn new(runtime: &Runtime, component: &Component, module: Option<&Module>) -> Result<Self> {
        let mut code = Self {
            component: runtime.linker.instantiate_pre(component)?,
            module: None,
            calls: Calls::Model("it is not one module".into()),
        };
        // This looks its functions up, with their types.
        let state = HostState::vacant(Limits::default())?;
        let tried = Instance::new(&code, state);
        tried.map_err(|(failure, _)| wasmtime::Error::msg(failure.reason.to_string()))?;
        match module.map(|module| code.take_directly(runtime, module)) {
            Some(Ok(())) => code.calls = Calls::Direct,
            Some(Err(failure)) => code.calls = Calls::Model(failure.reason.clone()),
            None => {}
        }
        Ok(code)
    }

    /// Returns how instances with these limits are called.
    pub fn calls(&self, limits: &Limits) -> Calls {
        match &self.calls {
            Calls::Direct if !limits.direct => Calls::Model("the limits say so".into()),
            calls => calls.clone(),
        }
    }

    /// Has instances made of the module from now on, if one can be.
    fn take_directly(&mut self, runtime: &Runtime, module: &Module) -> Result<(), Failure> {
        let failed = |error: wasmtime::Error| Failure::because(&format!("{error:#}"));
        let pre = runtime.direct_linker.instantiate_pre(module);
        self.module = Some(pre.map_err(failed)?);
        let state = HostState::vacant(Limits::default());
        let state = state.map_err(|error| Failure::because(&error.to_string()))?;
        let tried = Instance::new(self, state);
        tried.map(drop).map_err(|(failure, _)| {
            self.module = None;
            failure
        })
    }

    /// The module to compile besides a component, if it can be called directly.
    pub fn module_of(component: &[u8]) -> Option<&[u8]> {
        direct::module_of(component)
    }

    /// Makes an instance.
    ///
    /// # Errors
    ///
    /// wasmtime's.
    pub fn instantiate(&self, store: &mut Store<HostState>) -> Result<Box<dyn Exports>> {
        match &self.module {
            Some(module) if store.data().limits.direct => direct::instantiate(module, store),
            _ => model::instantiate(&self.component, store),
        }
    }
}
