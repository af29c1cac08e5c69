//! Runs components through wasmtime's component model: any that fits a version of the world,
//! whatever its structure.
//!
//! There are no windows here. wasmtime creates slices of linear memory when it copies lists in
//! and out, and no Rust reference may be to memory that a guest changes meanwhile. So no guest
//! memory is ever mapped into such a component's memory: it works by copies.

mod exports;
mod first;
mod imports;
mod second;
mod types;

pub use exports::instantiate;
pub use imports::linker;
