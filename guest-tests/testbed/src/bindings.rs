//! The WIT world `manatee:testbed/testbed`, as `wit-bindgen` renders it.

#![allow(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn, clippy::all)]

wit_bindgen::generate!({
    path: ["../../wit", "../wit"],
    world: "manatee:testbed/testbed",
    additional_derives: [PartialEq, Eq],
    pub_export_macro: true,
    generate_all,
});
