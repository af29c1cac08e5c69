//! The MANA network adapter.
//!
//! [`Device`] is the whole adapter, generic over the [`Platform`] that it runs on.
//! Compiled for wasm it is a component of the WIT world `manatee:device/adapter`;
//! compiled natively it is a library for tests, fuzzing and benchmarks. Its operations
//! are the methods of [`Adapter`].
//!
//! # Layers
//!
//! Each imports those below it, and no other; a test holds them to that.
//!
//! ```text
//!                    adapter               BAR 0, the table of requests, the device's lifecycle
//!                       |
//!                    recovery              continuing after a failure
//!                    |      |
//!      bnic  --------+      +------  hwc   vports, transmit, receive | the hardware channel
//!        |                            |
//!        +---------- gdma ------------+    registered memory, queues, interrupts
//!                     |
//!                   state                  what is saved, and what makes it valid
//!                     |
//!                   limits                 the bounds of everything
//! ```
//!
//! Below all of them lie two crates: `mana-wire`, the formats that driver and
//! device exchange, and `device-kit`, what any device needs, whatever it emulates.
//!
//! The hardware channel and the NIC do not know each other. `adapter` knows both, and
//! has the one table of what each request does.
//!
//! # What happens
//!
//! A driver writes WQEs to a work queue and rings its doorbell, a write to BAR 0
//! ([`Adapter::write_register`]). The work queue knows who owns it: the hardware
//! channel, which answers the request, or a queue of the NIC, which hands packets or
//! buffers to the host. A WQE whose work has ended is completed: a CQE is published in
//! the completion queue. Before the call returns, CQEs become events and events become
//! interrupts. Work that is too much for one call is left for [`Adapter::service`].
//!
//! The host calls [`Adapter::received`] and [`Adapter::transmitted`] when packets have
//! arrived or transmits have ended. Between two calls the device can be saved, restored
//! elsewhere, and, should it fail in the middle of one, recovered.
//!
//! # Words
//!
//! | word | what it is here |
//! | --- | --- |
//! | WQE, CQE, event | an element of a work, completion, event queue |
//! | unit | 32 bytes; the length of a WQE is a multiple of it |
//! | short WQE | a WQE of one unit: an inline OOB of 8 bytes and one SGE |
//! | producer, consumer | how far a queue is posted, and how far it is consumed |
//! | position | an offset in the stream of a queue's WQEs, in bytes modulo 2^32,
//! whatever the queue's size |
//! | lap | one pass over a ring; the owner bits of a CQE or event count laps |
//! | ledger | the WQEs of a queue that were read and not completed, in order |
//! | run | consecutive WQEs of one size with the same state |
//! | stretch | consecutive packets with the same outcome |
//! | record | what a CQE tells a successor of the device about its WQE |
//! | window | guest pages that are part of the device's own memory |
//!
//! Whatever comes from the guest is read once: the copy is checked, and the copy is
//! used. Every loop has a bound, and every refusal a status.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod adapter;
mod bnic;
#[cfg(feature = "faults")]
pub mod faults;
mod gdma;
mod hwc;
mod limits;
#[cfg(test)]
mod properties;
mod recovery;
#[allow(missing_docs)]
pub mod state;

pub use adapter::Device;
pub use device_kit::{Adapter, Platform};
pub use limits::{MAX_PAIRS, MAX_VECTORS, MAX_VPORTS};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
#[allow(unsafe_code)]
mod export {
    use crate::Device;

    #[cfg(not(feature = "faults"))]
    type Runs = device_kit::component::Host;
    #[cfg(feature = "faults")]
    type Runs = crate::faults::Faulty<device_kit::component::Host>;

    device_kit::export_adapter!(Device, Runs);
}
