//! The bindings that `wit-bindgen` generates for the WIT world
//! `manatee:device/adapter`. On a native target only the types can be used; the
//! imports exist in wasm.

#![allow(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn, clippy::all)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "adapter",
    additional_derives: [PartialEq, Eq],
    pub_export_macro: true,
    // `component::received` implements this one.
    skip: ["received"],
});
