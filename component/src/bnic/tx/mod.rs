//! Transmitting: send WQEs become packets for the host, and their outcomes become
//! completions.
//!
//! Most WQEs are [short](crate::gdma::queue::wq::ShortWqe), and are read by a loop of
//! their own whose values stay in registers. WQEs of a few SGEs are copied by a second
//! loop, and the rest one by one. All three accept the same WQEs, with the same outcome.

use device_kit::platform::{
    Offloads, Platform, Segment, TransmitResult, TxCompletion, TxPacket, TxStatus,
};
use mana_wire::oob::{CqeHeader, CqeType};
use mana_wire::queue::{Sge, WQE_UNIT};

use super::batch::{Batch, PACKETS};
use super::ledger::Ledger;
use super::port::Port;
use crate::gdma::Context;
use crate::gdma::ids::{CqId, SqId, WqId};
use crate::gdma::journal::Record;
use crate::gdma::queue::cq::Completion;
use crate::gdma::queue::wq::{SEVERAL_UNITS, ShortWqe, UNIT_WORDS, Unit};
use crate::gdma::queues::Reader;
use rules::{Memory, Rules};
use transmit::{Outcome, Taken, Transmit};

mod rules;
pub mod transmit;

/// Packets read from a queue before other work gets a turn.
const BUDGET: usize = 512;

/// A send queue of a vport.
#[derive(Debug)]
pub struct SendQueue {
    /// Number of its object.
    pub object: u32,
    /// Number among the vport's send queues.
    pub number: u16,
    /// The queue that it takes packets from.
    pub sq: SqId,
    /// The queue that it reports to.
    pub cq: CqId,
    /// Transmits that were read and not completed.
    pub ledger: Ledger<Transmit>,
    /// After a failure: the end of the last WQE whose packet was already handed over.
    pub handed_over: Option<u32>,
    /// Whether it has unread WQEs that wait for their turn.
    pub is_waiting: bool,
}

impl SendQueue {
    /// Creates a queue that has read nothing.
    pub fn new(object: u32, number: u16, sq: SqId, cq: CqId) -> Self {
        Self {
            object,
            number,
            sq,
            cq,
            ledger: Ledger::default(),
            handed_over: None,
            is_waiting: false,
        }
    }
}

/// Works on a send queue. Returns whether more is left than one call may do.
pub(super) fn process(
    ctx: &mut Context<'_, impl Platform>,
    port: &mut Port,
    queue: &mut SendQueue,
    batch: &mut Batch,
) -> bool {
    for _ in 0..BUDGET / PACKETS {
        let most = ctx.queues.batch(PACKETS);
        if process_batch(ctx, port, queue, batch, most) < most {
            return false;
        }
    }
    true
}

/// Reads up to `most` WQEs, hands their packets over, and completes those that have
/// ended. Returns how many it read.
fn process_batch(
    ctx: &mut Context<'_, impl Platform>,
    port: &mut Port,
    queue: &mut SendQueue,
    batch: &mut Batch,
    most: usize,
) -> usize {
    batch.begin();
    let rules = Rules::of(port, queue.sq, queue.cq);
    fill(ctx, batch, queue, &rules, most);
    let taken = batch.taken.len();
    if taken == 0 {
        return 0;
    }
    let packets = batch.packets.as_slice();
    if !packets.is_empty() {
        let (number, segments) = (queue.number.into(), batch.segments.as_slice());
        let result = ctx.platform.transmit(port.index, number, packets, segments);
        port.stats.count_groups(&result);
        if !result.statuses.is_empty() {
            batch.alike_bytes = None;
            apply(batch.taken.as_mut_slice(), packets.len(), &result);
        }
    }
    let taken = batch.taken.as_slice();
    // Completions are in order: while older ones wait, these wait too.
    let done = match (queue.ledger.entries(), batch.alike_bytes) {
        (0, Some(bytes)) => complete(ctx, port, queue, taken, Some(Stretch::sent(taken, bytes))),
        (0, None) => complete(ctx, port, queue, taken, None),
        _ => 0,
    };
    let later = &taken[done..];
    later.iter().for_each(|it| queue.ledger.add(it.run()));
    taken.len()
}

/// Fills a batch with up to `most` WQEs of a send queue.
fn fill(
    ctx: &mut Context<'_, impl Platform>,
    batch: &mut Batch,
    queue: &mut SendQueue,
    rules: &Rules,
    most: usize,
) {
    let mut reader = ctx.queues.read(WqId::Sq(queue.sq));
    while batch.taken.len() < most && reader.wq.has_work() {
        if queue.handed_over.is_none() {
            let short = fill_short(ctx.platform, batch, &mut reader, rules, most);
            // Mostly that was all.
            let several = match reader.wq.has_work() {
                true => fill_several(ctx.platform, batch, &mut reader, rules, most),
                false => 0,
            };
            if short + several > 0 {
                continue;
            }
        }
        batch.alike_bytes = None;
        let wqe = &mut batch.wqe;
        let fetched = reader.fetch(ctx.platform, wqe);
        let mut taken = Taken {
            position: wqe.position,
            end: wqe.end,
            length: 0,
            is_handed_over: false,
            outcome: Outcome::default(),
        };
        match rules.accept_fetched(fetched, wqe) {
            Err(cqe_type) => taken.outcome = Outcome::failed(cqe_type),
            Ok(accepted) => {
                taken.length = accepted.length;
                taken.outcome = Outcome::sent(accepted.suppress);
                if !was_handed_over(&mut queue.handed_over, wqe.end) {
                    taken.is_handed_over = true;
                    batch.packets.push(accepted.packet);
                    for sge in wqe.sgl() {
                        batch.segments.push(segment(sge));
                    }
                }
            }
        }
        batch.taken.push(taken);
    }
}

/// Writes the segments of `COUNT` SGEs to the front of `spare`, and sums the SGEs up.
#[inline(always)]
fn store<const COUNT: usize>(sgl: &[Sge], spare: &mut [Segment]) -> Option<Memory> {
    let sgl = sgl.first_chunk::<COUNT>()?;
    let places = spare.first_chunk_mut::<COUNT>()?;
    for (place, sge) in places.iter_mut().zip(sgl) {
        *place = segment(sge);
    }
    Some(Memory::of(sgl))
}

#[inline(always)]
fn segment(sge: &Sge) -> Segment {
    Segment {
        address: sge.address,
        length: sge.size,
    }
}

/// Reads up to `most` WQEs of two or three units, for as long as they are acceptable and
/// to be completed. Returns how many it read.
#[inline(never)]
fn fill_several(
    platform: &mut impl Platform,
    batch: &mut Batch,
    reader: &mut Reader<'_>,
    rules: &Rules,
    most: usize,
) -> usize {
    let most = most - batch.taken.len();
    let position = reader.wq.positions().read;
    let Ok(mut view) = reader.view_units(platform, SEVERAL_UNITS * most) else {
        return 0;
    };
    let (mut count, mut bytes, mut units) = (0, 0, 0);
    let wqe = &mut batch.wqe;
    wqe.end = position;
    while count < most && wqe.copy_shown(view) {
        let (sgl, spare) = (wqe.sgl(), batch.segments.spare());
        // Lengths that the compiler knows, so that it unrolls the loops.
        let memory = match sgl.len() {
            1 => store::<1>(sgl, spare),
            2 => store::<2>(sgl, spare),
            3 => store::<3>(sgl, spare),
            4 => store::<4>(sgl, spare),
            _ => None,
        };
        let accepted = memory.and_then(|memory| rules.accept_long(wqe, memory));
        let Some(accepted) = accepted else { break };
        batch.segments.add(accepted.packet.segments.into());
        batch.packets.push(accepted.packet);
        batch.taken.push(Taken {
            position: wqe.position,
            end: wqe.end,
            length: accepted.length,
            is_handed_over: true,
            outcome: Outcome::sent(false),
        });
        view = view.skip(wqe.units() * UNIT_WORDS);
        units += wqe.units();
        bytes += u64::from(accepted.length);
        count += 1;
    }
    reader.wq.pass_units(units);
    batch.alike_bytes = batch.alike_bytes.map(|all| all + bytes);
    count
}

/// Reads up to `most` short WQEs, for as long as they are acceptable. Returns how many
/// it read.
#[inline(never)]
fn fill_short(
    platform: &mut impl Platform,
    batch: &mut Batch,
    reader: &mut Reader<'_>,
    rules: &Rules,
    most: usize,
) -> usize {
    let most = most - batch.taken.len();
    let position = reader.wq.positions().read;
    let Ok(view) = reader.view_units(platform, most) else {
        return 0;
    };
    let mut slots = Slots {
        packets: batch.packets.spare(),
        segments: batch.segments.spare(),
        taken: batch.taken.spare(),
    };
    let (mut count, mut bytes) = take_bare(view.entries(most), &mut slots, position, rules);
    if count < most.min((view.length() / WQE_UNIT) as usize) {
        // The WQE that ended the loop is read again, and only that copy is checked.
        let rest = view.skip(count * UNIT_WORDS).entries(most - count);
        let position = position.wrapping_add(count as u32 * WQE_UNIT);
        let more = take_asking(rest, &mut slots.behind(count), position, rules);
        (count, bytes) = (count + more.0, bytes + more.1);
    }
    reader.wq.pass_units(count);
    batch.packets.add(count);
    batch.segments.add(count);
    batch.taken.add(count);
    batch.alike_bytes = batch.alike_bytes.map(|all| all + bytes);
    count
}

/// The free part of a batch, for short WQEs.
struct Slots<'a> {
    packets: &'a mut [TxPacket],
    segments: &'a mut [Segment],
    taken: &'a mut [Taken],
}

impl Slots<'_> {
    /// Returns the slots after the first `count`.
    fn behind(&mut self, count: usize) -> Slots<'_> {
        Slots {
            packets: &mut self.packets[count..],
            segments: &mut self.segments[count..],
            taken: &mut self.taken[count..],
        }
    }

    /// Fills the slots with WQEs from `position` on, for as long as `accept` makes
    /// packets of them. Returns their number and bytes.
    #[inline(always)]
    fn fill(
        &mut self,
        units: impl Iterator<Item = Unit>,
        mut position: u32,
        accept: impl Fn(&ShortWqe, u32) -> Option<TxPacket>,
    ) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        let slots = self.packets.iter_mut().zip(&mut *self.segments);
        let slots = slots.zip(&mut *self.taken);
        for (unit, ((packet, segment), taken)) in units.zip(slots) {
            let wqe = ShortWqe::of(unit);
            let end = position.wrapping_add(WQE_UNIT);
            let Some(accepted) = accept(&wqe, end) else {
                break;
            };
            *packet = accepted;
            (segment.address, segment.length) = (wqe.sge.address, wqe.sge.size);
            *taken = Taken {
                position,
                end,
                length: wqe.sge.size,
                is_handed_over: true,
                outcome: Outcome::sent(false),
            };
            position = end;
            bytes += u64::from(wqe.sge.size);
            count += 1;
        }
        (count, bytes)
    }
}

/// Reads short WQEs that ask for no offload. Calls no function, so that all values stay
/// in registers.
#[inline(never)]
fn take_bare(
    units: impl Iterator<Item = Unit>,
    slots: &mut Slots<'_>,
    position: u32,
    rules: &Rules,
) -> (usize, u64) {
    slots.fill(units, position, |wqe, end| {
        let packet = TxPacket::with_offloads(end, 1, Offloads::empty());
        rules.accept_bare(wqe).then_some(packet)
    })
}

/// Reads short WQEs, whatever offloads they ask for.
#[inline(never)]
fn take_asking(
    units: impl Iterator<Item = Unit>,
    slots: &mut Slots<'_>,
    position: u32,
    rules: &Rules,
) -> (usize, u64) {
    slots.fill(units, position, |wqe, end| rules.accept_short(wqe, end))
}

/// Returns whether a packet was handed over before a failure. Clears `handed_over` at
/// the first that was not.
#[inline]
fn was_handed_over(handed_over: &mut Option<u32>, end: u32) -> bool {
    let Some(last) = *handed_over else {
        return false;
    };
    if last.wrapping_sub(end) >= 1 << 31 {
        *handed_over = None;
    }
    handed_over.is_some()
}

/// Returns the completion's type for a status of the host; None while pending.
fn cqe_type(status: TxStatus) -> Option<CqeType> {
    Some(match status {
        // To the device, a packet that the wire drops was sent.
        TxStatus::Sent | TxStatus::Dropped => CqeType::TxOkay,
        TxStatus::Pending => return None,
        TxStatus::MemoryFault => CqeType::TxGdmaError,
        TxStatus::TooLong => CqeType::TxMtuDrop,
        TxStatus::BadHeaders => CqeType::TxHdrProcessingError,
    })
}

/// Sets the outcomes of a batch's packets, in order.
#[cold]
fn apply(taken: &mut [Taken], packets: usize, result: &TransmitResult) {
    let statuses = &result.statuses;
    assert_eq!(statuses.len(), packets, "a status for each packet");
    let handed_over = taken.iter_mut().filter(|it| it.is_handed_over);
    for (taken, status) in handed_over.zip(statuses) {
        taken.outcome.cqe_type = cqe_type(*status);
    }
}

/// Completes transmits that were pending.
pub(super) fn transmitted(
    ctx: &mut Context<'_, impl Platform>,
    port: &mut Port,
    queue: &mut SendQueue,
    batch: &mut Batch,
    done: &[TxCompletion],
) {
    for ended in done {
        queue.ledger.update(ended.id, |it| {
            let cqe_type = &mut it.completion.cqe_type;
            *cqe_type = cqe_type.or(self::cqe_type(ended.status));
        });
    }
    batch.begin();
    while take_ended(queue, batch) {
        complete(ctx, port, queue, batch.taken.as_slice(), None);
    }
}

/// Takes ended transmits from the front of the ledger, as many as the batch has room
/// for. Returns whether there were any.
fn take_ended(queue: &mut SendQueue, batch: &mut Batch) -> bool {
    batch.taken.clear();
    while batch.taken.room() > 0
        && let Some(run) = queue.ledger.front()
        && run.known.completion.cqe_type.is_some()
    {
        batch.taken.push(Taken::of(run));
        queue.ledger.pass(1);
    }
    batch.taken.len() > 0
}

/// Completes ended transmits from the front on. `known` is the first stretch, if known
/// already. Returns their number.
fn complete<P: Platform>(
    ctx: &mut Context<'_, P>,
    port: &mut Port,
    queue: &SendQueue,
    taken: &[Taken],
    mut known: Option<Stretch>,
) -> usize {
    let (id, platform) = (WqId::Sq(queue.sq), &mut *ctx.platform);
    ctx.queues.complete(id, queue.cq, |wq, cq| {
        let (mask, mut rest) = (wq.mask(), taken);
        while let Some(stretch) = known.take().or_else(|| Stretch::of(rest)) {
            let (alike, others) = rest.split_at(stretch.count);
            let cqe_type = stretch.cqe_type;
            port.stats.count_transmitted(
                platform,
                port.index,
                cqe_type,
                stretch.count,
                stretch.bytes,
            );
            if stretch.is_posted {
                let header = CqeHeader::of(cqe_type).into_bits();
                cq.post(platform, id, alike, |it| completion(header, it, mask));
            }
            rest = others;
        }
        let done = taken.len() - rest.len();
        if let Some(last) = taken[..done].last() {
            wq.complete_to(last.end);
        }
        done
    })
}

/// Consecutive transmits with the same outcome.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    cqe_type: CqeType,
    is_posted: bool,
    count: usize,
    bytes: u64,
}

impl Stretch {
    /// Creates the stretch of packets that were all sent.
    fn sent(taken: &[Taken], bytes: u64) -> Self {
        Self {
            cqe_type: CqeType::TxOkay,
            is_posted: true,
            count: taken.len(),
            bytes,
        }
    }

    /// Returns the stretch at the front; None if the first transmit has not ended.
    #[inline(never)]
    fn of(taken: &[Taken]) -> Option<Self> {
        let outcome = taken.first()?.outcome;
        let cqe_type = outcome.cqe_type?;
        let (mut count, mut bytes) = (0, 0);
        for it in taken {
            if it.outcome != outcome {
                break;
            }
            bytes += u64::from(it.length);
            count += 1;
        }
        Some(Self {
            cqe_type,
            is_posted: outcome.posted().is_some(),
            count,
            bytes,
        })
    }
}

/// Returns the completion of a WQE in a ring with this mask.
#[inline(always)]
fn completion(header: u32, taken: &Taken, mask: u32) -> Completion {
    let wqe_offset = (taken.position & mask) / WQE_UNIT;
    let (first, second) = (header.into(), u64::from(wqe_offset << 5));
    Completion {
        words: [first, second, 0, 0, 0, 0, 0],
        rest: 0,
        record: Record::completed(taken.end),
    }
}
