//! Work queue objects: a driver's send or receive queues of a vport, with the
//! completion queues that they report to.

use device_kit::Platform;
use mana_wire::bnic::CreateWqObjReq;
use mana_wire::gdma::Status;
use mana_wire::queue::QueueType;

use super::rx::ReceiveQueue;
use super::steering::Steering;
use super::tx::SendQueue;
use super::{Nic, QueueKey};
use crate::gdma::Context;
use crate::gdma::ids::{CqId, WqId, parent_eq};
use crate::gdma::queue::moderation::Moderation;
use crate::gdma::queue::wq::{Direction, Owner};
use crate::gdma::queues::Kind;
use crate::state::object_handle;

/// Ids and handle of a new object.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// The send or receive queue.
    pub wq: WqId,
    /// The completion queue.
    pub cq: CqId,
    /// The object's handle.
    pub handle: u64,
}

impl Nic {
    /// Creates an object of two DMA regions, which no longer exist afterwards, whose
    /// completion queue has this moderation.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] for a vport or region that does not exist,
    /// [`Status::NoResources`] if the vport has all queues of the direction,
    /// [`Status::InvalidParameter`] if a size or an event queue is invalid. Nothing has
    /// changed then.
    pub fn create_object<P: Platform>(
        &mut self,
        ctx: &mut Context<'_, P>,
        req: &CreateWqObjReq,
        moderation: Option<Moderation>,
    ) -> Result<Created, Status> {
        let vport = self.vport_index(req.vport).ok_or(Status::InvalidHandle)?;
        let (direction, kind) = match QueueType::from_wire(req.wq_type) {
            Some(QueueType::Sq) => (Direction::Send, Kind::Sq),
            Some(QueueType::Rq) => (Direction::Receive, Kind::Rq),
            _ => return Err(Status::InvalidParameter),
        };
        let key = self.free_key(vport, direction).ok_or(Status::NoResources)?;
        let parent = parent_eq(req.cq_parent_qid);
        ctx.queues.check(kind)?;
        ctx.queues.check(Kind::Cq(parent))?;
        if req.wq_gdma_region == req.cq_gdma_region {
            return Err(Status::InvalidParameter);
        }
        ctx.regions.check_queue(req.wq_gdma_region, req.wq_size)?;
        ctx.regions.check_queue(req.cq_gdma_region, req.cq_size)?;

        let wq_pages = ctx
            .regions
            .take_for_queue(req.wq_gdma_region, req.wq_size)?;
        let cq_pages = ctx
            .regions
            .take_for_queue(req.cq_gdma_region, req.cq_size)?;
        let (queues, platform) = (&mut *ctx.queues, &mut *ctx.platform);
        let wq = match direction {
            Direction::Send => WqId::Sq(queues.create_sq(platform, wq_pages)),
            Direction::Receive => WqId::Rq(queues.create_rq(platform, wq_pages)),
        };
        let cq = queues.create_cq(platform, parent, cq_pages);
        self.sequence = self.sequence.wrapping_add(1);
        let number = self.sequence;
        self.add(key, number, wq, cq);
        queues.read(wq).wq.owner = Owner::Nic(key.into_bits());
        let reports_to = queues.cq(cq).expect("a new queue");
        reports_to.is_used = true;
        reports_to.moderation = moderation;
        Ok(Created {
            wq,
            cq,
            handle: object_handle(number),
        })
    }

    /// Gives a vport a queue that works on `wq` and `cq`.
    pub(super) fn add(&mut self, key: QueueKey, number: u32, wq: WqId, cq: CqId) {
        let vport = &mut self.vports[usize::from(key.vport)];
        let queue = usize::from(key.queue);
        match wq {
            WqId::Sq(sq) => vport.send[queue] = Some(SendQueue::new(number, key.queue, sq, cq)),
            WqId::Rq(rq) => {
                vport.receive[queue] = Some(ReceiveQueue::new(number, key.queue, rq, cq));
            }
        }
        self.objects.insert(number, key);
    }

    /// Returns the key with the lowest free number of a vport's queues of a direction.
    fn free_key(&self, vport: usize, direction: Direction) -> Option<QueueKey> {
        let queues = &self.vports[vport];
        let free = match direction {
            Direction::Send => queues.send.iter().position(Option::is_none),
            Direction::Receive => queues.receive.iter().position(Option::is_none),
        };
        Some(QueueKey {
            direction,
            vport: vport as u16,
            queue: free? as u16,
        })
    }

    /// Ends an object and its queues.
    ///
    /// # Errors
    ///
    /// [`Status::InvalidHandle`] if there is none, [`Status::InvalidParameter`]
    /// if it is of the other type.
    pub fn destroy_object(
        &mut self,
        ctx: &mut Context<'_, impl Platform>,
        handle: u64,
        wq_type: u32,
    ) -> Result<(), Status> {
        let key = self.object(handle).ok_or(Status::InvalidHandle)?;
        let queue_type = match key.direction {
            Direction::Send => QueueType::Sq,
            Direction::Receive => QueueType::Rq,
        };
        if QueueType::from_wire(wq_type) != Some(queue_type) {
            return Err(Status::InvalidParameter);
        }
        self.remove(ctx, key);
        if key.direction == Direction::Receive {
            self.tell_steering(ctx, key.vport.into());
        }
        Ok(())
    }

    /// Ends every object, whatever it is doing, and every vport's configuration.
    pub fn destroy_all(&mut self, ctx: &mut Context<'_, impl Platform>) {
        for direction in [Direction::Send, Direction::Receive] {
            for key in self.keys(direction) {
                self.remove(ctx, key);
            }
        }
        for vport in &mut self.vports {
            vport.port.tx_enabled = false;
            vport.port.steering = Steering::default();
            if vport.port.clamp.take().is_some() {
                ctx.platform.limit_rate(vport.port.index, None);
            }
        }
    }

    fn remove(&mut self, ctx: &mut Context<'_, impl Platform>, key: QueueKey) {
        let vport = &mut self.vports[usize::from(key.vport)];
        let (port, queue) = (vport.port.index, usize::from(key.queue));
        let (number, wq, cq) = match key.direction {
            Direction::Send => {
                let queue = vport.send[queue].take().expect("a send queue by its key");
                ctx.platform.cancel_transmit(port, key.queue.into());
                (queue.object, WqId::Sq(queue.sq), queue.cq)
            }
            Direction::Receive => {
                let queue = vport.receive[queue].take();
                let queue = queue.expect("a receive queue by its key");
                ctx.platform.cancel_receive(port, key.queue.into());
                (queue.object, WqId::Rq(queue.rq), queue.cq)
            }
        };
        self.objects.remove(&number);
        self.waiting.retain(|other| *other != key);
        ctx.queues.destroy_pair(ctx.platform, ctx.regions, wq, cq);
    }
}
