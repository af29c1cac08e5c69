//! Components by way of wasmtime's component model: any that fits the world,
//! however it is put together.

mod exports;
mod imports;

pub use exports::instantiate;
pub use imports::linker;
