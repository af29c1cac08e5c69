//! A vport without its queues.

use device_kit::adapter::PortConfig;

use super::stats::Counters;
use super::steering::Steering;

/// A vport without its queues.
#[derive(Debug)]
pub struct Port {
    /// Number of the host's port.
    pub index: u32,
    /// The configuration that the host gave.
    pub config: PortConfig,
    /// Whether `CONFIG_VPORT_TX` was received.
    pub tx_enabled: bool,
    /// The steering of received packets to queues.
    pub steering: Steering,
    /// The transmit limit, in Mbit/s (`SET_BW_CLAMP`).
    pub clamp: Option<u32>,
    /// Set by `VTL2_ASSIGN_SERIAL_NUMBER`.
    pub serial_no: u32,
    /// Set by `VTL2_MOVE_FILTER`.
    pub filter_to_vtl0: bool,
    /// Counters since power-on.
    pub stats: Counters,
}

impl Port {
    /// Creates the vport of the host's port `index`.
    pub fn new(index: u32, config: PortConfig) -> Self {
        Self {
            index,
            config,
            tx_enabled: false,
            steering: Steering::default(),
            clamp: None,
            serial_no: 0,
            filter_to_vtl0: false,
            stats: Counters::default(),
        }
    }

    /// Returns the longest frame without a tag, in bytes.
    pub fn max_frame(&self) -> u16 {
        self.config.mtu + 14
    }
}
