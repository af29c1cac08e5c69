//! The basic NIC: vports, each with send and receive queues.
//!
//! A [`SendQueue`](tx::SendQueue) or [`ReceiveQueue`](rx::ReceiveQueue) belongs to its
//! [`Vport`](vport::Vport) and knows the GDMA queues that it works on. A doorbell finds
//! it by the key that the work queue has for its owner, the host by port and number,
//! and a driver's request by a handle.

use alloc::vec::Vec;

use device_kit::Platform;
use device_kit::adapter::PortConfig;
use device_kit::platform::{Features, RxPacket, TxCompletion};
use hashbrown::HashMap;
use mana_wire::bnic::Stats;
use mana_wire::gdma::cap1;

use crate::gdma::Context;
use crate::gdma::ids::WqId;
use crate::gdma::queue::wq::Direction;
use crate::state::object_number;
use batch::Batch;
use vport::Vport;

mod batch;
mod ledger;
pub mod link;
pub mod objects;
pub mod port;
pub mod requests;
mod restore;
mod route;
pub mod rx;
mod stats;
pub mod steering;
pub mod tx;
pub mod vport;

/// The NIC.
#[derive(Debug)]
pub struct Nic {
    /// The vports, in the order of the host's ports.
    pub vports: Vec<Vport>,
    /// The features that the host offers and the device uses.
    features: Features,
    /// The most buffers of a receive queue that the host holds at a time.
    most_buffers: usize,
    /// The queues by the number in their object's handle.
    objects: HashMap<u32, QueueKey>,
    /// Queues with unread WQEs that wait for their turn.
    waiting: Vec<QueueKey>,
    /// Number of the last object.
    sequence: u32,
    batch: Batch,
}

/// The key of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueKey {
    /// Whether it sends or receives.
    pub direction: Direction,
    /// Index of the vport.
    pub vport: u16,
    /// Number among the vport's queues of its direction.
    pub queue: u16,
}

impl QueueKey {
    /// Returns the key in the form that the work queue stores. The direction is left
    /// out, as the work queue knows it.
    pub fn into_bits(self) -> u32 {
        u32::from(self.vport) << 16 | u32::from(self.queue)
    }

    /// Returns the key of a queue of a direction from the form that its work queue
    /// stores.
    pub fn from_bits(direction: Direction, bits: u32) -> Self {
        Self {
            direction,
            vport: (bits >> 16) as u16,
            queue: bits as u16,
        }
    }
}

/// Tag in every vport handle, and in no other.
const VPORT_TAG: u64 = 0x5650 << 48;

impl Nic {
    /// Creates a NIC at power-on.
    pub fn new(features: Features, ports: impl IntoIterator<Item = PortConfig>) -> Self {
        let vports = (0..).zip(ports);
        let vports: Vec<_> = vports
            .map(|(index, config)| Vport::new(index, config))
            .collect();
        let queues = vports.iter().map(|vport| vport.receive.len()).sum();
        Self {
            vports,
            features,
            most_buffers: rx::most_buffers(queues),
            objects: HashMap::new(),
            waiting: Vec::new(),
            sequence: 0,
            batch: Batch::default(),
        }
    }

    /// Resets to power-on; the state of the links stays.
    pub fn reset(&mut self) {
        let ports = self.vports.iter().map(|vport| vport.port.config);
        *self = Self::new(self.features, ports);
    }

    /// Returns the capabilities that depend on the host's features.
    pub fn capabilities(&self) -> u64 {
        match self.host_delays() {
            true => cap1::MODERATION,
            false => 0,
        }
    }

    /// Returns whether a driver with these capabilities sets how interrupts are moderated.
    pub fn moderates(&self, driver_caps: u64) -> bool {
        self.host_delays() && driver_caps & cap1::DRIVER_MODERATION != 0
    }

    /// Returns whether the host delays interrupts.
    pub fn host_delays(&self) -> bool {
        self.features.contains(Features::MODERATION)
    }

    /// Returns the handle of a vport.
    pub fn vport_handle(index: usize) -> u64 {
        VPORT_TAG | (index as u64 + 1)
    }

    /// Returns the index of the vport with a handle.
    pub fn vport_index(&self, handle: u64) -> Option<usize> {
        let index = (handle ^ VPORT_TAG).checked_sub(1)? as usize;
        (handle & (0xffff << 48) == VPORT_TAG && index < self.vports.len()).then_some(index)
    }

    /// Returns the queue whose object has a handle.
    pub fn object(&self, handle: u64) -> Option<QueueKey> {
        self.objects.get(&object_number(handle)?).copied()
    }

    /// Returns the counters of all vports together.
    pub fn total_stats(&self) -> Stats {
        let vports = self.vports.iter().map(|vport| vport.port.stats.reported());
        stats::sum(vports)
    }

    /// Works on a queue. Work that is too much for one call waits.
    pub fn process(&mut self, ctx: &mut Context<'_, impl Platform>, key: QueueKey) {
        let vport = &mut self.vports[usize::from(key.vport)];
        let (port, batch) = (&mut vport.port, &mut self.batch);
        let is_waiting = match key.direction {
            Direction::Send => {
                let queue = vport.send[usize::from(key.queue)].as_mut();
                let queue = queue.expect("a send queue by its key");
                let is_left = tx::process(ctx, port, queue, batch);
                is_left && !core::mem::replace(&mut queue.is_waiting, true)
            }
            Direction::Receive => {
                let queue = vport.receive[usize::from(key.queue)].as_mut();
                let queue = queue.expect("a receive queue by its key");
                let is_left = rx::post_buffers(ctx, port, queue, batch, self.most_buffers);
                is_left && !core::mem::replace(&mut queue.is_waiting, true)
            }
        };
        if is_waiting {
            self.waiting.push(key);
        }
    }

    /// Returns whether queues wait for their turn.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Works on the queues that wait for their turn.
    pub fn process_waiting(&mut self, ctx: &mut Context<'_, impl Platform>) {
        for key in core::mem::take(&mut self.waiting) {
            self.set_waiting(key, false);
            self.process(ctx, key);
        }
    }

    /// Works on all receive queues of a vport.
    fn process_vport(&mut self, ctx: &mut Context<'_, impl Platform>, index: usize) {
        for queue in 0..self.vports[index].receive.len() {
            if self.vports[index].receive[queue].is_some() {
                let key = QueueKey {
                    direction: Direction::Receive,
                    vport: index as u16,
                    queue: queue as u16,
                };
                self.process(ctx, key);
            }
        }
    }

    /// Works on all queues, those that send first.
    pub fn process_all(&mut self, ctx: &mut Context<'_, impl Platform>) {
        for direction in [Direction::Send, Direction::Receive] {
            for key in self.keys(direction) {
                self.process(ctx, key);
            }
        }
    }

    /// Completes buffers that packets were received into. A destroyed queue has none.
    pub fn received(
        &mut self,
        ctx: &mut Context<'_, impl Platform>,
        port: u32,
        number: u32,
        packets: &[RxPacket],
    ) {
        let Some(key) = self.key(Direction::Receive, port, number) else {
            return;
        };
        let vport = &mut self.vports[usize::from(key.vport)];
        if let Some(queue) = &mut vport.receive[usize::from(key.queue)] {
            rx::complete(ctx, &mut vport.port, queue, packets);
            self.process(ctx, key);
        }
    }

    /// Completes transmits that were pending. A destroyed queue has none.
    pub fn transmitted(
        &mut self,
        ctx: &mut Context<'_, impl Platform>,
        port: u32,
        number: u32,
        done: &[TxCompletion],
    ) {
        let Some(key) = self.key(Direction::Send, port, number) else {
            return;
        };
        let vport = &mut self.vports[usize::from(key.vport)];
        if let Some(queue) = &mut vport.send[usize::from(key.queue)] {
            tx::transmitted(ctx, &mut vport.port, queue, &mut self.batch, done);
        }
    }

    /// Forgets the work in progress, so that WQEs which were read are read again.
    /// `last` returns the last packet of a port's queue that was already handed over.
    pub fn forget_work(&mut self, mut last: impl FnMut(u32, u32, WqId) -> Option<u32>) {
        self.waiting.clear();
        for vport in &mut self.vports {
            for queue in vport.send.iter_mut().flatten() {
                queue.is_waiting = false;
                queue.ledger.clear();
                let wq = WqId::Sq(queue.sq);
                queue.handed_over = last(vport.port.index, queue.number.into(), wq);
            }
            for queue in vport.receive.iter_mut().flatten() {
                queue.is_waiting = false;
                queue.ledger.clear();
            }
        }
    }

    /// Returns the key of a port's queue, which need not exist; None if the numbers are
    /// out of range.
    fn key(&self, direction: Direction, port: u32, number: u32) -> Option<QueueKey> {
        let vport = self.vports.get(port as usize)?;
        let can_be = (number as usize) < vport.send.len();
        can_be.then_some(QueueKey {
            direction,
            vport: port as u16,
            queue: number as u16,
        })
    }

    /// Returns the keys of all queues of a direction.
    fn keys(&self, direction: Direction) -> Vec<QueueKey> {
        let keys = self.objects.values();
        let mut keys: Vec<_> = keys.filter(|key| key.direction == direction).collect();
        keys.sort_by_key(|key| key.into_bits());
        keys.into_iter().copied().collect()
    }

    fn set_waiting(&mut self, key: QueueKey, is_waiting: bool) {
        let vport = &mut self.vports[usize::from(key.vport)];
        let flag = match key.direction {
            Direction::Send => {
                let queue = vport.send[usize::from(key.queue)].as_mut();
                queue.map(|queue| &mut queue.is_waiting)
            }
            Direction::Receive => {
                let queue = vport.receive[usize::from(key.queue)].as_mut();
                queue.map(|queue| &mut queue.is_waiting)
            }
        };
        *flag.expect("a queue that waits") = is_waiting;
    }
}
