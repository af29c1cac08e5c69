//! Why a device can't be created or configured.

use crate::component::ComponentError;
use crate::contract::ConfigureError;
use crate::runtime::{Failure, InvalidPort};

/// Why a port's packets can't be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// There is no such port.
    #[error("there is no port {port}: the device has 0 to {}", ports.saturating_sub(1))]
    NoPort {
        /// The number that was asked for.
        port: u32,
        /// The number of them.
        ports: usize,
    },
    /// The port's packets are watched already.
    #[error("the packets of port {port} are watched already")]
    Watched {
        /// Its number.
        port: u32,
    },
}

/// Why a port's rate can't be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// There is no such port.
    #[error("there is no port {port}: the device has 0 to {}", ports.saturating_sub(1))]
    NoPort {
        /// The number that was asked for.
        port: u32,
        /// The number of them.
        ports: usize,
    },
    /// The rate is out of bounds.
    #[error(
        "a rate of {0} Mbit/s is not between 1 and {MAX_RATE_MBPS}: to let nothing through, take \
         the port's link down; to let everything through, set no rate"
    )]
    OutOfBounds(u32),
}

/// The highest rate that a port can be limited to, in Mbit/s: faster than any wire.
pub const MAX_RATE_MBPS: u32 = 1_000_000;

/// Why a device can't be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The component can't be used.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// It failed while it was set up.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The port's parameters are invalid.
    #[error("port {0}: {1}")]
    Port(usize, InvalidPort),
    /// The component refuses its ports.
    #[error("the component refuses its ports: {0:?}")]
    Refused(ConfigureError),
    /// Fewer than one port or more than the component has.
    #[error("{given} ports were given; this device has 1 to {max}")]
    PortCount {
        /// The number that was given.
        given: usize,
        /// The most that it has.
        max: u32,
    },
    /// The thread that waits for packets can't be set up.
    #[error("setting up the device's thread: {0}")]
    Poller(#[from] std::io::Error),
}
