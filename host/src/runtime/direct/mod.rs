//! Components past wasmtime's component model: the one module inside is
//! instantiated by itself, and called as the canonical ABI says.
//!
//! A call through the component model looks a dozen things up, and costs eight
//! times what a call of the same function in its module does. Nearly all
//! components are one module, whose imports and exports carry the world's names,
//! and what the canonical ABI asks for in this world is little: lists and records
//! in linear memory, no resources, no strings. The sandbox is the same: memory,
//! limits and deadlines are those of the module, and what it reaches are the
//! same imports. Its types are those that wasmtime checked on the component.

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
