//! A vport and its queues.

use core::array;

use device_kit::Platform;
use device_kit::adapter::PortConfig;

use super::port::Port;
use super::rx::{self, ReceiveQueue};
use super::steering::Steering;
use super::tx::SendQueue;
use crate::gdma::Context;
use crate::limits::MAX_QUEUES;

/// A vport. Its queues have their number as their index.
#[derive(Debug)]
pub struct Vport {
    /// All but the queues.
    pub port: Port,
    /// Its send queues.
    pub send: [Option<SendQueue>; MAX_QUEUES],
    /// Its receive queues.
    pub receive: [Option<ReceiveQueue>; MAX_QUEUES],
}

impl Vport {
    /// Creates the vport of the host's port `index`.
    pub fn new(index: u32, config: PortConfig) -> Self {
        Self {
            port: Port::new(index, config),
            send: array::from_fn(|_| None),
            receive: array::from_fn(|_| None),
        }
    }

    /// Changes how packets find their queue. Returns whether the receive queues
    /// have to be worked on: they hand their buffers over now.
    pub fn steer(&mut self, ctx: &mut Context<'_, impl Platform>, steering: Steering) -> bool {
        let before = core::mem::replace(&mut self.port.steering, steering);
        let is_enabled = self.port.steering.enabled;
        if before.enabled && !is_enabled {
            for queue in self.receive.iter_mut().flatten() {
                rx::take_back(ctx, &self.port, queue);
            }
        }
        is_enabled && !before.enabled
    }
}
