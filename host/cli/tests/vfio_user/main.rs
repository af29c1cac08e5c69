//! `manatee serve`, driven over its sockets like by a VMM and an operator.

mod activation;
mod attach;
mod code;
mod descriptors;
mod flood;
mod garbage;
mod harness;
mod interrupts;
mod lifecycle;
mod memory;
mod msix;
mod raw;
mod restart;
mod service;
mod successor;
