//! Where the canonical ABI puts the fields of the contract's types, in bytes: generated from
//! the contract by the build (`host/build/layout.rs`).

#![allow(dead_code, missing_docs, reason = "generated for all types alike")]

include!(concat!(env!("OUT_DIR"), "/layout.rs"));
