//! Runs components without wasmtime's component model: the one module inside is instantiated
//! alone, and called by the canonical ABI.
//!
//! A call through the component model looks up a dozen things, and costs eight times as much as a
//! call of the same function in its module. Nearly all components are one module, whose imports
//! and exports have the world's names, and this world needs little of the canonical ABI: lists
//! and records in linear memory, no resources, no strings. The sandbox is the same: memory,
//! limits and deadlines are those of the module, and it reaches the same imports. Its types are
//! those that wasmtime checked on the component.

mod abi;
mod exports;
mod guest_abi;
mod heap;
mod imports;
mod layout;
mod shape;

#[cfg(test)]
mod tests;

pub use exports::instantiate;
pub use guest_abi::GuestAbi;
pub use imports::linker;
pub use shape::module_of;
