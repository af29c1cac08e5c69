//! The WIT world `manatee:device/adapter`, as wasmtime's macro renders it.

#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "adapter",
    imports: { default: trappable },
    additional_derives: [PartialEq, Eq],
});
