//! A device, as its embedder sees it.

use alloc::vec::Vec;

pub use crate::bindings::exports::manatee::device::device::{ConfigureError, Description};
use crate::bindings::exports::manatee::device::device::{DeviceEvent, Observations};
use crate::envelope::RestoreError;
use crate::platform::{Features, Platform, RxPacket, TxCompletion};
use crate::window::Window;

/// The configuration of a port, from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Unicast address in transmission order.
    pub mac: [u8; 6],
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// Link speed that the driver reports.
    pub link_speed_mbps: u32,
    /// Whether the link is up.
    pub link_up: bool,
    /// Queue pairs of the port, at least 1.
    pub queues: u16,
}

/// A device. The methods are the WIT world's exports; see there for what they
/// promise. Those that return a `bool` return whether work is left for
/// [`service`](Self::service).
pub trait Adapter<P: Platform>: Sized {
    /// Describes the device to its host, before there is one.
    fn describe() -> Description;

    /// Creates a device without ports.
    fn new(platform: P) -> Self;

    /// Returns the platform.
    fn platform(&mut self) -> &mut P;

    /// Unmaps the device's windows and returns the platform. Buffers and
    /// packets that the host holds stay with it.
    fn into_platform(self) -> P;

    /// Configures the ports, once. Returns which of the features that the host
    /// offers the device uses; windows are the platform's business.
    ///
    /// # Errors
    ///
    /// [`ConfigureError`], which says what is wrong with the ports; nothing
    /// changes.
    fn configure(
        &mut self,
        offered: Features,
        ports: &[PortConfig],
    ) -> Result<Features, ConfigureError>;

    /// Reads 1, 2, 4 or 8 bytes of a BAR. What does not exist reads as zero.
    fn read_register(&self, bar: u8, offset: u64, width: u8) -> u64;

    /// Writes 1, 2, 4 or 8 bytes of a BAR and does the work that this starts.
    fn write_register(&mut self, bar: u8, offset: u64, width: u8, value: u64) -> bool;

    /// Continues work that was left.
    fn service(&mut self) -> bool;

    /// Completes buffers that packets were received into.
    fn received(&mut self, port: u32, queue: u32, packets: &[RxPacket]) -> bool;

    /// Completes transmits that were pending.
    fn transmitted(&mut self, port: u32, queue: u32, done: &[TxCompletion]) -> bool;

    /// Notes that a port's link went up or down.
    fn link_changed(&mut self, port: u32, up: bool);

    /// Notes that the VMM took away the memory of windows, or gave it back.
    fn windows_changed(&mut self, is_named: impl Fn(&Window) -> bool, present: bool);

    /// Resets the device to power-on: releases every queue, region and buffer.
    fn reset(&mut self);

    /// Saves the whole state, between two calls.
    fn save(&self) -> Vec<u8>;

    /// Continues where a saved device was. May be repeated with a newer state
    /// as long as nothing else is called.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] says why the state was refused; the device is as after
    /// `configure`.
    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError>;

    /// Continues where a device that failed after it was saved had got to.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] says why the state was refused; the device is as after
    /// `configure`.
    fn recover(&mut self, state: &[u8], seen: &Observations) -> Result<(), RestoreError>;

    /// Notifies the driver of an event outside the device.
    fn announce(&mut self, event: DeviceEvent);

    /// Returns the state as JSON text, for people to read.
    fn inspect(&self) -> Vec<u8>;
}
