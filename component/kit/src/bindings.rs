//! The WIT world `manatee:device/adapter`, as `wit-bindgen` renders it. On a
//! native target only the types are of use; the imports are there in wasm.

#![allow(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn, clippy::all)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "adapter",
    additional_derives: [PartialEq, Eq],
    pub_export_macro: true,
    // `component::received` has this one.
    skip: ["received"],
});
