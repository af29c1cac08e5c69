//! The code that instances are created from.

use std::sync::Arc;

use wasmtime::component::{Component, InstancePre as ComponentPre};
use wasmtime::{InstancePre, Module, Result, Store};

use super::engine::Runtime;
use super::exports::Exports;
use super::limits::Limits;
use super::state::HostState;
use super::{direct, model};

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
pub struct PreparedComponent {
    component: ComponentPre<HostState>,
    module: Option<InstancePre<HostState>>,
    calls: Calls,
}

impl PreparedComponent {
    /// Checks that a component has the imports of the world.
    ///
    /// # Errors
    ///
    /// The import that does not fit.
    pub fn of_component(runtime: &Runtime, component: &Component) -> Result<Self> {
        Ok(Self {
            component: runtime.linker.instantiate_pre(component)?,
            module: None,
            calls: Calls::Model("it is not one module".into()),
        })
    }

    /// Returns the same component, called in the module inside.
    ///
    /// # Errors
    ///
    /// The module's imports are not those of the world.
    pub fn with_module(&self, runtime: &Runtime, module: &Module) -> Result<Self> {
        Ok(Self {
            module: Some(runtime.direct_linker.instantiate_pre(module)?),
            calls: Calls::Direct,
            ..self.clone()
        })
    }

    /// Returns the same component, with the reason why its module is not called.
    pub fn without_module(self, why: Arc<str>) -> Self {
        let calls = Calls::Model(why);
        Self { calls, ..self }
    }

    /// Returns how instances with these limits are called.
    pub fn calls(&self, limits: &Limits) -> Calls {
        match &self.calls {
            Calls::Direct if !limits.direct => Calls::Model("the limits say so".into()),
            calls => calls.clone(),
        }
    }

    /// Returns the module to compile along with a component, if it can be called directly.
    pub fn module_of(component: &[u8]) -> Option<&[u8]> {
        direct::module_of(component)
    }

    /// Makes an instance.
    ///
    /// # Errors
    ///
    /// The error of wasmtime.
    pub fn instantiate(&self, store: &mut Store<HostState>) -> Result<Box<dyn Exports>> {
        match &self.module {
            Some(module) if store.data().limits.direct => direct::instantiate(module, store),
            _ => model::instantiate(&self.component, store),
        }
    }
}
