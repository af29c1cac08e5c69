//! `manatee serve`, driven over its sockets as a VMM and an operator do.

mod activation;
mod attach;
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
