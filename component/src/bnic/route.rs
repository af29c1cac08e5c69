//! The steering of a vport's received packets, as sent to the host.
//!
//! A driver names receive queues by the handles of their objects (`CONFIG_VPORT_RX`), and the host
//! by their numbers. The host steers packets: [`Platform::steer`] sends it the steering whenever
//! that may have changed, if it supports the feature, and it keeps it when the device is replaced.
//! Without the feature, a queue has the packets that the host delivers there.
//!
//! # A queue that is destroyed while packets are steered there
//!
//! The queue is destroyed, as on hardware: Linux frees a queue's memory whether or not
//! the device released it (`mana_destroy_rxq`), and its RDMA driver destroyed queues
//! that were steered to for years (commit dbeb256e8dd8, "Disable RX steering on RSS QP
//! destroy"). From then on, entries of the table that name it mean the default queue,
//! and a destroyed default queue means the first queue that the table still names.
//! Without any of these left, the vport stops receiving, as if the driver had asked for
//! that, so that packets are not steered to a later queue by accident.

use device_kit::Platform;
use device_kit::platform::{self, Features, HashTypes};

use super::Nic;
use super::steering::Steering;
use crate::gdma::Context;
use crate::gdma::queue::wq::Direction;

impl Nic {
    /// Returns how the host is to steer a vport's packets; None if none of the named
    /// queues exists.
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

    /// Sends the host the steering of a vport that receives. The vport stops receiving
    /// if none of its steering's queues is left.
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

    /// Sends the host all steering and limits again: a request that failed half-way may
    /// have sent others.
    pub fn tell_again(&mut self, ctx: &mut Context<'_, impl Platform>) {
        self.tell_all_limits(ctx);
        for index in 0..self.vports.len() {
            self.tell_steering(ctx, index);
        }
    }
}
