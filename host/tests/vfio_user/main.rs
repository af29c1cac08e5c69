//! `manatee serve`, driven over its sockets as a VMM and an operator do.

mod attach;
mod garbage;
mod harness;
mod interrupts;
mod lifecycle;
mod memory;
mod raw;
