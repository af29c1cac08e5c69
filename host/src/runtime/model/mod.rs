//! Components through wasmtime's component model: any that fits a version of the
//! world, however it is put together.
//!
//! There are no windows here. wasmtime refers to linear memory as a slice when it
//! copies lists in and out, and no Rust reference may be to memory that a guest
//! changes meanwhile. So nothing of the guest ever lies in such a component's
//! memory: it works by copies.

mod exports;
mod first;
mod imports;
mod second;
mod types;

pub use exports::instantiate;
pub use imports::linker;
