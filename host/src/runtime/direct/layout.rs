//! The offsets of the fields of the contract's types in the canonical ABI, in bytes: generated
//! from the contract by the build (`host/build/layout.rs`).

#![allow(dead_code, missing_docs, reason = "generated for all types alike")]

include!(concat!(env!("OUT_DIR"), "/layout.rs"));
