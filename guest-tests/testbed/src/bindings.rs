//! The bindings that `wit-bindgen` generates for the WIT world
//! `manatee:testbed/testbed`.

#![allow(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn, clippy::all)]

wit_bindgen::generate!({
    path: ["../../wit", "../wit"],
    world: "manatee:testbed/testbed",
    pub_export_macro: true,
    with: {
        "manatee:device/types@0.2.0": device_kit::bindings::manatee::device::types,
    },
    generate_all,
});
