//! Helpers that tests of the host share.
//!
//! [`hostile`] builds hand-written components, and [`machine`] is a guest's machine
//! with a device of the host in it.

pub mod description;
pub mod hostile;
// Where an embedder finds it, whose example depends on nothing below this folder but the
// suite.
#[path = "../../../host/examples/embed/machine.rs"]
pub mod machine;
