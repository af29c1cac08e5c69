//! Composes the builtins and the guest into one component.
//!
//! wasmtime does that with its feature `compile-time-builtins`
//! (`CodeBuilder::compile_time_builtins_binary_or_text`), and then compiles what comes
//! out like any component; the feature is another build of wasmtime. Here such a
//! component is written by hand, so that what is measured is the wasmtime of the host.

use wasmtime::component::Component;
use wasmtime::{CodeBuilder, Result};

use crate::builtins;
use crate::guest::{self, Access};

/// The parts that are composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The guest's component and the builtins' component, as wasmtime does it.
    Components,
    /// The modules in them, in a component of the host's own: without the adapters that
    /// the component model puts between components.
    Modules,
}

/// Compiles a guest with its builtins.
///
/// # Errors
///
/// If they don't fit together.
pub fn compile(builder: &mut CodeBuilder<'_>, access: Access, join: Join) -> Result<Component> {
    match join {
        Join::Components => components(builder, access),
        Join::Modules => finish(builder, &modules(access)),
    }
}

fn components(builder: &mut CodeBuilder<'_>, access: Access) -> Result<Component> {
    let named = |name, text: String| text.replacen("(component", &format!("(component ${name}"), 1);
    let exports =
        guest::EXPORTS.map(|name| format!(r#"(export "{name}" (func $composed "{name}"))"#));
    // The intrinsics go to the builtins alone: nothing else can name them.
    let text = format!(
        r#"(component
        (import "unsafe-intrinsics" (instance $intrinsics {intrinsics}))
        (import "host" (instance $host {host}))
        {builtins}
        {guest}
        (instance $ring (instantiate $builtins
            (with "unsafe-intrinsics" (instance $intrinsics))))
        (instance $composed (instantiate $guest
            (with "ring" (instance $ring))
            (with "host" (instance $host))))
        {exports})"#,
        intrinsics = builtins::intrinsics(),
        host = guest::HOST,
        builtins = named("builtins", builtins::component(access)),
        guest = named("guest", guest::component(access)),
        exports = exports.concat(),
    );
    finish(builder, &text)
}

fn modules(access: Access) -> String {
    format!(
        r#"(component
        (import "unsafe-intrinsics" (instance $intrinsics {intrinsics}))
        (import "host" (instance $host {host}))
        {builtins}
        {guest})"#,
        intrinsics = builtins::intrinsics(),
        host = guest::HOST,
        builtins = builtins::instance(access),
        guest = guest::instance(access, r#"(with "ring" (instance $builtins))"#),
    )
}

fn finish(builder: &mut CodeBuilder<'_>, text: &str) -> Result<Component> {
    let component = wat::parse_str(text)?;
    builder.wasm_binary(component, None)?.compile_component()
}
