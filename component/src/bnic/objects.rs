//! Work queue objects: a send or receive queue of a vport, with the
//! completion queue that it reports to.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::posted::Posted;
use super::{MAX_QUEUES, Nic, tx};
use crate::gdma::queues::Kind;
use crate::gdma::wq::Client;
use crate::hwc::Context;
use crate::hwc::requests::parent_eq;
use device_kit::platform::Platform;
use mana_wire::bnic::CreateWqObjReq;
use mana_wire::gdma::Status;
use mana_wire::queue::QueueType;

/// A work queue object.
#[derive(Debug)]
pub struct WqObject {
    /// Index of its vport.
    pub vport: usize,
    /// Number among the vport's queues of its direction.
    pub queue: u32,
    /// Id of the send or receive queue.
    pub wq: u32,
    /// Id of the completion queue.
    pub cq: u32,
    /// What it is in the middle of.
    pub work: Work,
    /// Which one it is: the lower part of its handle.
    pub number: u32,
}

/// What a work queue object is in the middle of.
#[derive(Debug)]
pub enum Work {
    /// Transmits that were handed over and not completed, in order.
    Send {
        /// In order.
        in_flight: VecDeque<tx::InFlight>,
        /// After a failure: up to here, packets were handed over already.
        handed_over: Option<u32>,
    },
    /// Receive buffers that the host holds, and those to be given back, in order.
    Receive {
        /// In order.
        posted: Posted,
    },
}

/// Set in every object handle, so that no other handle is one.
const OBJECT_TAG: u64 = 0x4f42 << 48;

impl WqObject {
    /// The handle by which the driver names it.
    pub fn handle(&self) -> u64 {
        OBJECT_TAG | u64::from(self.number)
    }

    /// Type of its work queue.
    pub fn queue_type(&self) -> QueueType {
        match self.work {
            Work::Send { .. } => QueueType::Sq,
            Work::Receive { .. } => QueueType::Rq,
        }
    }
}

impl Nic {
    /// The object that a handle names.
    pub fn object(&self, handle: u64) -> Option<(usize, &WqObject)> {
        self.objects
            .iter()
            .find(|(_, object)| object.handle() == handle)
    }

    /// The handle of an object, by its key.
    pub fn handle_of(&self, key: usize) -> Option<u64> {
        self.objects.get(key).map(WqObject::handle)
    }

    /// The receive queue object of a vport's queue, by its key.
    pub fn receive_object(&self, vport: usize, queue: u32) -> Option<usize> {
        self.find(vport, queue, QueueType::Rq)
    }

    /// The send queue object of a vport's queue, by its key.
    pub fn send_object(&self, vport: usize, queue: u32) -> Option<usize> {
        self.find(vport, queue, QueueType::Sq)
    }

    /// The keys of all send or receive objects.
    pub fn keys(&self, queue_type: QueueType) -> Vec<usize> {
        let objects = self.objects.iter();
        let wanted = objects.filter(|(_, object)| object.queue_type() == queue_type);
        wanted.map(|(key, _)| key).collect()
    }

    pub(super) fn find(&self, vport: usize, queue: u32, queue_type: QueueType) -> Option<usize> {
        let wanted =
            |o: &WqObject| o.vport == vport && o.queue == queue && o.queue_type() == queue_type;
        self.objects
            .iter()
            .find(|(_, object)| wanted(object))
            .map(|(key, _)| key)
    }

    /// The lowest number that no queue of this direction of a vport has.
    fn free_queue(&self, vport: usize, queue_type: QueueType) -> Option<u32> {
        (0..MAX_QUEUES).find(|queue| self.find(vport, *queue, queue_type).is_none())
    }
}

/// Ids and handle of a new object.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// Id of the send or receive queue.
    pub wq: u32,
    /// Id of the completion queue.
    pub cq: u32,
    /// The object's handle.
    pub handle: u64,
}

/// Makes an object of two DMA regions, which are gone afterwards.
///
/// # Errors
///
/// The status to answer with; nothing has changed.
pub fn create(
    ctx: &mut Context<'_, impl Platform>,
    req: &CreateWqObjReq,
) -> Result<Created, Status> {
    let vport = ctx
        .nic
        .vport_index(req.vport)
        .ok_or(Status::InvalidHandle)?;
    let (queue_type, kind) = match QueueType::from_wire(req.wq_type) {
        Some(QueueType::Sq) => (QueueType::Sq, Kind::Sq),
        Some(QueueType::Rq) => (QueueType::Rq, Kind::Rq),
        _ => return Err(Status::InvalidParameter),
    };
    let queue = ctx
        .nic
        .free_queue(vport, queue_type)
        .ok_or(Status::NoResources)?;
    let cq_kind = Kind::Cq(parent_eq(req.cq_parent_qid));
    ctx.queues.check(kind)?;
    ctx.queues.check(cq_kind)?;
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
    let wq = ctx
        .queues
        .create(ctx.platform, kind, wq_pages)
        .map_err(|(status, _)| status)?;
    let cq = ctx
        .queues
        .create(ctx.platform, cq_kind, cq_pages)
        .map_err(|(status, _)| status)?;
    let work = match queue_type {
        QueueType::Sq => Work::Send {
            in_flight: VecDeque::new(),
            handed_over: None,
        },
        _ => Work::Receive {
            posted: Posted::default(),
        },
    };
    ctx.nic.sequence = ctx.nic.sequence.wrapping_add(1);
    let object = WqObject {
        vport,
        queue,
        wq,
        cq,
        work,
        number: ctx.nic.sequence,
    };
    let handle = object.handle();
    let key = ctx.nic.objects.insert(object);
    let queue = match queue_type {
        QueueType::Sq => ctx.queues.sq(wq),
        _ => ctx.queues.rq(wq),
    };
    if let Some(queue) = queue {
        queue.client = Client::Nic(key);
    }
    Ok(Created { wq, cq, handle })
}

/// Ends an object and its queues.
///
/// # Errors
///
/// The status to answer with: no such object, one of the other type, or a
/// receive queue that packets are steered to.
pub fn destroy(
    ctx: &mut Context<'_, impl Platform>,
    handle: u64,
    wq_type: u32,
) -> Result<(), Status> {
    let (key, object) = ctx.nic.object(handle).ok_or(Status::InvalidHandle)?;
    let queue_type = object.queue_type();
    if QueueType::from_wire(wq_type) != Some(queue_type) {
        return Err(Status::InvalidParameter);
    }
    let steering = &ctx.nic.vports[object.vport].steering;
    if queue_type == QueueType::Rq && steering.enabled {
        return Err(Status::Busy);
    }
    remove(ctx, key)
}

/// Ends every object, whatever it is doing, and every vport's configuration.
pub fn destroy_all(ctx: &mut Context<'_, impl Platform>) {
    let keys: Vec<usize> = ctx.nic.objects.iter().map(|(key, _)| key).collect();
    for key in keys {
        let _ = remove(ctx, key);
    }
    for vport in &mut ctx.nic.vports {
        vport.tx_enabled = false;
        vport.steering = super::Steering::default();
    }
}

fn remove(ctx: &mut Context<'_, impl Platform>, key: usize) -> Result<(), Status> {
    let object = ctx
        .nic
        .objects
        .try_remove(key)
        .ok_or(Status::InvalidHandle)?;
    let port = object.vport as u32;
    match object.work {
        Work::Send { .. } => ctx.platform.cancel_transmit(port, object.queue),
        Work::Receive { .. } => ctx.platform.cancel_receive(port, object.queue),
    }
    let queue_type = object.queue_type();
    ctx.queues
        .destroy(ctx.platform, ctx.regions, queue_type, object.wq)?;
    ctx.queues
        .destroy(ctx.platform, ctx.regions, QueueType::Cq, object.cq)
}
