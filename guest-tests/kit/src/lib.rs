//! What tests of the host have in common.
//!
//! [`hostile`] makes components that are written by hand, and [`machine`] is a guest's
//! machine with a device of the host in it.

pub mod description;
pub mod hostile;
// Where an embedder finds it, whose example depends on nothing below this folder but the
// suite.
#[path = "../../../host/examples/embed/machine.rs"]
pub mod machine;
