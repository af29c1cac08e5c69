//! Receiving: receive WQEs become buffers for the host, and packets become completions
//! ([`complete`]).

use device_kit::platform::{Platform, RxBuffer, Segment};
use mana_wire::gdma::Status;
use mana_wire::oob::{CqeHeader, CqeType, RxCompletionFlags, RxCompletionOob};
use mana_wire::queue::{Sge, WQE_UNIT};

use super::batch::{BUFFERS, Batch};
use super::ledger::{Ledger, Run};
use super::port::Port;
use crate::gdma::Context;
use crate::gdma::ids::WqId;
use crate::gdma::journal::Record;
use crate::gdma::queue::cq::Completion;
use crate::gdma::queue::wq::{Fetched, ShortWqe, Unit};
use crate::gdma::queues::Reader;
use crate::gdma::resources::MEM_KEY;
use crate::limits::MAX_BUFFERS;

pub(super) use complete::complete;
pub use queue::{Buffer, ReceiveQueue};

mod complete;
mod queue;

/// The most buffers of a queue that the host holds at a time.
const MAX_POSTED: usize = 2048;
/// WQEs read in one call.
const BUDGET: usize = 2048;

/// Returns how many buffers of each queue the host may hold, with this number of
/// queues.
pub(super) fn most_buffers(queues: usize) -> usize {
    MAX_POSTED.min(MAX_BUFFERS / queues.max(1))
}

/// Hands receive buffers to the host, if the vport receives; the host holds up to
/// `room` of them. Returns whether more is left than one call may do.
pub(super) fn post_buffers(
    ctx: &mut Context<'_, impl Platform>,
    port: &mut Port,
    queue: &mut ReceiveQueue,
    batch: &mut Batch,
    room: usize,
) -> bool {
    if !port.steering.enabled {
        return false;
    }
    let mut left = BUDGET;
    while left > 0 {
        let most = ctx.queues.batch(BUFFERS);
        left = left.saturating_sub(most);
        let most = most.min(room.saturating_sub(queue.ledger.entries()));
        let is_more = post_batch(ctx, port, queue, batch, most);
        // Completing malformed buffers makes room for others.
        complete(ctx, port, queue, &[]);
        if !is_more {
            return false;
        }
    }
    true
}

/// Takes up to `most` WQEs. Returns whether there may be more to take.
fn post_batch(
    ctx: &mut Context<'_, impl Platform>,
    port: &Port,
    queue: &mut ReceiveQueue,
    batch: &mut Batch,
    most: usize,
) -> bool {
    batch.begin();
    let is_more = gather(ctx, batch, queue, most);
    let buffers = batch.buffers.as_slice();
    if buffers.is_empty() {
        return is_more;
    }
    let (number, segments) = (queue.number.into(), batch.segments.as_slice());
    let taken = ctx
        .platform
        .post_receive(port.index, number, buffers, segments);
    let Some(refused) = buffers.get(taken as usize) else {
        return is_more;
    };
    // Buffers that the host did not take are read again later.
    let position = queue.ledger.cut(refused.id);
    let position = position.expect("a buffer that was just posted");
    ctx.queues.read(WqId::Rq(queue.rq)).wq.rewind_to(position);
    false
}

/// Fills a batch with up to `most` WQEs of a receive queue. Returns whether there
/// may be more of them.
fn gather(
    ctx: &mut Context<'_, impl Platform>,
    batch: &mut Batch,
    queue: &mut ReceiveQueue,
    most: usize,
) -> bool {
    let mut reader = ctx.queues.read(WqId::Rq(queue.rq));
    let ledger = &mut queue.ledger;
    let end = ledger.entries() + most;
    while ledger.entries() < end && batch.has_room() {
        let most = end - ledger.entries();
        if gather_short(ctx.platform, batch, &mut reader, ledger, most) > 0 {
            continue;
        }
        let wqe = &mut batch.wqe;
        let fetched = reader.fetch(ctx.platform, wqe);
        if fetched == Fetched::Nothing {
            return false;
        }
        let sgl = wqe.sgl().iter().filter(|sge| sge.size != 0);
        let is_memory = sgl.clone().all(|sge| sge.mem_key == MEM_KEY);
        let count = sgl.clone().count() as u16;
        let known = if fetched == Fetched::Wqe && count > 0 && is_memory {
            sgl.map(segment).for_each(|it| batch.segments.push(it));
            batch.buffers.push(RxBuffer {
                id: wqe.end,
                segments: count,
            });
            Buffer::Posted
        } else {
            Buffer::Malformed
        };
        ledger.add(Run::of_one(wqe.position, wqe.end, known));
    }
    most > 0
}

#[inline]
fn segment(sge: &Sge) -> Segment {
    Segment {
        address: sge.address,
        length: sge.size,
    }
}

/// Takes up to `most` short WQEs for as long as they are acceptable. Returns how
/// many there were.
#[inline(never)]
fn gather_short(
    platform: &mut impl Platform,
    batch: &mut Batch,
    reader: &mut Reader<'_>,
    ledger: &mut Ledger<Buffer>,
    most: usize,
) -> usize {
    let position = reader.wq.positions().read;
    let Ok(view) = reader.view_units(platform, most) else {
        return 0;
    };
    let (buffers, segments) = (batch.buffers.spare(), batch.segments.spare());
    let count = take_short(view.entries(most), buffers, segments, position);
    if count > 0 {
        reader.wq.pass_units(count);
        ledger.add(Run::of_units(position, count as u32, Buffer::Posted));
        batch.buffers.add(count);
        batch.segments.add(count);
    }
    count
}

/// Takes short WQEs from `position` on for as long as they are acceptable. Returns how
/// many there were. A function of its own, so that all values stay in registers.
#[inline(never)]
fn take_short(
    units: impl Iterator<Item = Unit>,
    buffers: &mut [RxBuffer],
    segments: &mut [Segment],
    mut position: u32,
) -> usize {
    let mut count = 0;
    for (unit, (buffer, slot)) in units.zip(buffers.iter_mut().zip(segments)) {
        let wqe = ShortWqe::of(unit);
        let sge = wqe.sge;
        // One branch, not three.
        if !(wqe.is_short() & (sge.size != 0) & (sge.mem_key == MEM_KEY)) {
            break;
        }
        position = position.wrapping_add(WQE_UNIT);
        (buffer.id, buffer.segments) = (position, 1);
        *slot = segment(&sge);
        count += 1;
    }
    count
}

/// Posts a completion of the receive queue which shows that everything received before
/// is completed.
///
/// # Errors
///
/// [`Status::NoResources`] if the completion queue is full, or may be: a fence has no
/// WQE, and so no slot that the driver keeps free for it.
pub(super) fn fence(
    ctx: &mut Context<'_, impl Platform>,
    queue: &ReceiveQueue,
) -> Result<(), Status> {
    let (id, platform) = (WqId::Rq(queue.rq), &mut *ctx.platform);
    let header = CqeHeader::of(CqeType::RxObjectFence);
    let words = RxCompletionOob::words(header, RxCompletionFlags::new(), 0);
    ctx.queues.complete(id, queue.cq, |wq, cq| {
        // The driver keeps a CQE free for each outstanding buffer, and the fence may
        // use one: Linux waits for the fence before it sends another.
        let has_spare = wq.has_outstanding() || cq.has_spare(wq.reused_below());
        if cq.position.is_full() || !has_spare {
            return Err(Status::NoResources);
        }
        let completion = Completion {
            words,
            rest: 0,
            record: Record::completed(wq.positions().completed),
        };
        cq.post(platform, id, &[completion], |it| *it);
        Ok(())
    })
}

/// Takes the buffers back from the host. They are posted again when the vport receives
/// again.
pub(super) fn take_back(
    ctx: &mut Context<'_, impl Platform>,
    port: &Port,
    queue: &mut ReceiveQueue,
) {
    ctx.platform.cancel_receive(port.index, queue.number.into());
    if let Some(first) = queue.ledger.front() {
        let wq = ctx.queues.read(WqId::Rq(queue.rq)).wq;
        wq.rewind_to(first.position);
    }
    queue.ledger.clear();
}
