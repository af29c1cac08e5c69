//! The commands that an implementation of the protocol carries out.

use std::os::fd::OwnedFd;

use crate::method::{
    Capture, Captured, Capturing, Counts, EndCapture, Link, LinkStatus, Log, LogLevel, Rate,
    RateStatus, Stage, SwapRequest, Swapped, Tree,
};
use crate::refusal::Refusal;

/// What the control socket gives access to. Calls come from threads that may wait.
pub trait Commands: Send + Sync + 'static {
    /// Returns the live tree, or the part of it that a pattern selects: see [`select`](crate::select).
    ///
    /// # Errors
    ///
    /// If nothing matches the pattern.
    fn inspect(&self, pattern: Option<&str>) -> Result<Tree, Refusal>;

    /// Returns the device's counters.
    fn counters(&self) -> Counts;

    /// Replaces the component by the one in a file, which may be anything that a client has open.
    /// Reports stages to `progress`.
    ///
    /// # Errors
    ///
    /// Why the old one continues.
    fn swap(
        &self,
        swap: &SwapRequest,
        component: OwnedFd,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Swapped, Refusal>;

    /// Returns to the previous component.
    ///
    /// # Errors
    ///
    /// Why the one that runs continues.
    fn rollback(&self) -> Result<Swapped, Refusal>;

    /// Shows or sets a port's link.
    ///
    /// # Errors
    ///
    /// If there is no such port.
    fn link(&self, link: &Link) -> Result<LinkStatus, Refusal>;

    /// Shows or sets a port's maximum transmit rate.
    ///
    /// # Errors
    ///
    /// If there is no such port, or no such rate.
    fn rate(&self, rate: &Rate) -> Result<RateStatus, Refusal>;

    /// Shows or changes what is logged.
    ///
    /// # Errors
    ///
    /// If the level is invalid.
    fn log(&self, log: &Log) -> Result<LogLevel, Refusal>;

    /// Captures the packets of a port. Returns the end of a pipe from which they are read.
    ///
    /// # Errors
    ///
    /// If there is no such port, or it can't be captured now.
    fn capture(&self, capture: &Capture) -> Result<(Capturing, OwnedFd), Refusal>;

    /// Ends a capture.
    ///
    /// # Errors
    ///
    /// If there is none of this number.
    fn end_capture(&self, capture: &EndCapture) -> Result<Captured, Refusal>;

    /// Tries to escape from the jail. Returns what stopped it.
    ///
    /// # Errors
    ///
    /// If there is no such way.
    #[cfg(feature = "escape")]
    fn escape(&self, way: &str) -> Result<serde_json::Value, Refusal> {
        Err(Refusal::not_found(format!("{way} can't be tried here")))
    }
}
