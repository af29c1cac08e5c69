//! Where a vport's packets go, as the host is told.
//!
//! A driver names receive queues by the handles of their objects
//! (`CONFIG_VPORT_RX`), and the host by their numbers. Which packet goes where is
//! the host's work; it is told by [`Platform::steer`] whenever that may have
//! changed, if it can do it, and keeps it when the device is replaced. If not, the packets of a queue are those that the host
//! delivers there.
//!
//! # A queue that is destroyed while packets are steered there
//!
//! It goes, as on hardware: Linux frees a queue's memory whether or not the device
//! let go of it (`mana_destroy_rxq`), and its RDMA driver destroyed queues under
//! their steering for years (commit dbeb256e8dd8, "Disable RX steering on RSS QP
//! destroy"). Entries of the table that name it stand for the default queue from
//! then on, and a default queue that has gone for the first one that the table still
//! names. With the last of all these the vport stops to receive, as if the driver
//! had asked for that, so that no queue which is made later is steered to by
//! accident.

use device_kit::Platform;
use device_kit::platform::{self, Features, HashTypes};

use super::Nic;
use super::steering::Steering;
use crate::gdma::Context;
use crate::gdma::queue::wq::Direction;

impl Nic {
    /// Returns how the host is to steer a vport's packets; None if no queue that is
    /// named exists.
    fn route(&self, index: usize) -> Option<platform::Steering> {
        let steering = &self.vports[index].port.steering;
        let number = |handle: u64| {
            let key = self.object(handle)?;
            let is_own = usize::from(key.vport) == index && key.direction == Direction::Receive;
            is_own.then_some(key.queue)
        };
        let table: &[u64] = if steering.rss { &steering.table } else { &[] };
        let default = steering.default_object.and_then(number);
        let default = default.or_else(|| table.iter().find_map(|handle| number(*handle)))?;
        let table = table.iter().map(|handle| number(*handle));
        Some(platform::Steering {
            hash_types: if steering.rss {
                HashTypes::all()
            } else {
                HashTypes::empty()
            },
            key: steering.hash_key.to_vec(),
            table: table.map(|queue| queue.unwrap_or(default)).collect(),
            default_queue: default.into(),
        })
    }

    /// Tells the host how a vport's packets find their queue, if it receives any. It
    /// stops to if no queue is left for them.
    pub(super) fn tell_steering(&mut self, ctx: &mut Context<'_, impl Platform>, index: usize) {
        if !self.vports[index].port.steering.enabled {
            return;
        }
        match self.route(index) {
            Some(route) => {
                if self.features.contains(Features::STEERING) {
                    ctx.platform.steer(index as u32, &route);
                }
            }
            None => {
                let vport = &mut self.vports[index];
                let steering = Steering {
                    enabled: false,
                    ..vport.port.steering.clone()
                };
                vport.steer(ctx, steering);
            }
        }
    }

    /// Tells the host again what it was told: a request that failed half-way may have
    /// told it something else.
    pub fn tell_again(&mut self, ctx: &mut Context<'_, impl Platform>) {
        self.tell_all_limits(ctx);
        for index in 0..self.vports.len() {
            self.tell_steering(ctx, index);
        }
    }
}
