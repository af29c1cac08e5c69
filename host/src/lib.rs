//! Manatee runs a virtual network adapter as a sandboxed WebAssembly component. This is the
//! library for virtual machine monitors (VMMs).
//!
//! ```text
//!  guest ── registers, doorbells ──> ┌─────────────────── Device ───────────────────┐
//!   │                                │ Function (PCI)       component (wasm)        │
//!   │ <────────── interrupts ─────── │  config, MSI-X  <──>  the adapter's logic    │
//!   │                                │                        │ WIT world           │
//!  guest memory ── shared files ───> │ GuestMemory  <─────────┴──> Endpoint a port   │
//!                                    └───────────────────────────────────│──────────┘
//!                                                              packets: TAP, loopback, ...
//! ```
//!
//! - A [`Component`](component::Component) is an adapter as bytes of wasm, checked and
//!   compiled. [`Component::embedded`](component::Component::embedded) is the one that
//!   comes along: Microsoft's MANA, which stock Linux kernels have a driver for.
//! - A [`Device`](device::Device) is an instance of it with its PCI function, the guest's
//!   memory and its ports. All its methods may be called from any thread. A component
//!   that fails is replaced by a fresh instance, which continues from a checkpoint;
//!   [`Device::swap`](device::Device::swap) replaces it by another version.
//!   [`Device::pause`](device::Device::pause) and `resume` are for a VMM that stops its guest.
//! - A [`Port`](device::Port) has an [`Endpoint`](endpoint::Endpoint), which carries packets.
//! - [`Interrupts`](interrupt::Interrupts) take what the device raises, as vectors or as
//!   MSI-X messages. A sink is called with the device's lock held: it must not block, nor
//!   call the device.
//!
//! Features, all of them on by default: `compiler` compiles components in this process
//! (without, it runs what another process of the same version compiled), `io-uring` moves
//! many packets by one system call, `tap` has TAP interfaces as endpoints, `vfio-user` serves a
//! device to a VMM elsewhere.
//!
//! The process itself can be replaced while a guest runs: see [`continuity`].
//!
//! A VMM in another process drives a device over vfio-user: see `vfio_user::Server`, with
//! the feature of that name (on by default).
//!
//! # A device in ten lines
//!
//! ```
//! use manatee::component::Component;
//! use manatee::device::{Device, Port};
//! use manatee::endpoint::Loopback;
//! use manatee::interrupt::{Interrupts, VectorSink};
//!
//! /// Where the guest's processors are interrupted.
//! struct Processors;
//!
//! impl VectorSink for Processors {
//!     fn raise(&self, _vector: u16) {}
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let port = Port {
//!     mac: [2, 0, 0, 0, 0, 1],
//!     mtu: 1500,
//!     link_speed_mbps: 10_000,
//!     endpoint: Box::new(Loopback::new()),
//! };
//! let device = Device::builder(&Component::embedded()?)
//!     .port(port)
//!     .build(Interrupts::Vectors(Box::new(Processors)))?;
//!
//! // The guest reads vendor and device id, and turns on memory space and bus mastering.
//! let mut id = [0; 4];
//! device.config_read(0, &mut id);
//! assert_eq!(id, [0x14, 0x14, 0xba, 0x00]);
//! device.config_write(4, &[6, 0]);
//!
//! // Its memory is shared by file: here 1 MiB from guest address 0 on.
//! let memory = tempfile::tempfile()?;
//! memory.set_len(1 << 20)?;
//! device.map_memory(0, 1 << 20, Some((memory, 0)), true)?;
//!
//! // The version of the register map, which a driver reads first.
//! let mut version = [0; 4];
//! device.bar_read(0, 0, &mut version);
//! assert_ne!(version, [0; 4]);
//! # Ok(())
//! # }
//! ```

pub mod component;
pub mod continuity;
pub mod contract;
pub mod device;
pub mod endpoint;
pub mod interrupt;
pub mod memory;
pub mod pci;
mod precompiled;
pub mod runtime;
#[cfg(feature = "vfio-user")]
pub mod vfio_user;

/// The README's example, to be tested with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
