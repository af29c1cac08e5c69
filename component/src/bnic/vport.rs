//! A vport and its queues.

use alloc::boxed::Box;

use device_kit::Platform;
use device_kit::adapter::PortConfig;

use super::port::Port;
use super::rx::{self, ReceiveQueue};
use super::steering::Steering;
use super::tx::SendQueue;
use crate::gdma::Context;

/// A vport. The index of a queue is its number; there are as many slots as the port has
/// queue pairs.
#[derive(Debug)]
pub struct Vport {
    /// Everything but the queues.
    pub port: Port,
    /// Its send queues.
    pub send: Box<[Option<SendQueue>]>,
    /// Its receive queues.
    pub receive: Box<[Option<ReceiveQueue>]>,
}

impl Vport {
    /// Creates the vport of the host's port `index`.
    pub fn new(index: u32, config: PortConfig) -> Self {
        Self {
            port: Port::new(index, config),
            send: (0..config.queues).map(|_| None).collect(),
            receive: (0..config.queues).map(|_| None).collect(),
        }
    }

    /// Changes how packets find their queue. Returns whether the receive queues now
    /// have to hand over their buffers.
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
