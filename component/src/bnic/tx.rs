//! Transmit: from send queue entries to packets for the host, and from what
//! became of them to completions.

use super::batch::{Batch, PACKETS};
use super::objects::Work;
use super::{Nic, Vport};
use crate::gdma::caution::Caution;
use crate::gdma::cq::{Completes, Plain};
use crate::gdma::queues::Queues;
use crate::gdma::wq::{Fetched, Simple, Unit, Wq};
use crate::hwc::Context;
use device_kit::platform::{
    Level, Platform, Segment, TransmitResult, TxCompletion, TxPacket, TxStatus,
};
use mana_wire::oob::{CqeHeader, CqeType};
use mana_wire::queue::{QueueType, WQE_UNIT};
use rules::Rules;

mod rules;

/// Packets taken from a queue before other work gets a turn.
const BUDGET: usize = 512;
const ETHERNET_HEADER: u16 = 14;
const VLAN_TAG: u32 = 4;
/// The most tags of a frame, an inserted one counted: 802.1ad has two. Endpoints
/// have the same rule.
const MAX_TAGS: u32 = 2;
/// Longest packet that can be cut into segments: an IP packet and its header.
const MAX_LSO: u32 = 65535 + ETHERNET_HEADER as u32 + MAX_TAGS * VLAN_TAG;
/// Longest first SGE of a large send, which holds the headers.
const MAX_LSO_HEADERS: u32 = 256;
/// Longest TCP header.
const MAX_TCP_HEADER: u32 = 60;

/// A transmit that was taken from the send queue and not yet completed.
#[derive(Clone, Copy, Debug, Default)]
pub struct InFlight {
    /// Where its entry begins.
    pub position: u32,
    /// Where its entry ends, which is also the packet's name: what the host
    /// says of a packet tells how far the queue had got.
    pub end: u32,
    /// Bytes of the packet.
    pub length: u32,
    /// No completion on success.
    pub suppress: bool,
    /// What to complete it with, once known.
    pub outcome: Option<CqeType>,
}

/// Works on a send queue. What is too much for one call waits.
pub fn process(ctx: &mut Context<'_, impl Platform>, key: usize) {
    for _ in 0..BUDGET / PACKETS {
        let most = batch(ctx.queues);
        if process_batch(ctx, key, most) != Some(most) {
            return;
        }
    }
    ctx.nic.wait(key);
}

/// Packets to take at a time.
fn batch(queues: &Queues) -> usize {
    if queues.caution.is_on() { 1 } else { PACKETS }
}

/// Takes up to `most` entries, hands them over, and completes what is done. Returns how many
/// entries it took.
fn process_batch(ctx: &mut Context<'_, impl Platform>, key: usize, most: usize) -> Option<usize> {
    let nic = &mut *ctx.nic;
    let object = nic.objects.get_mut(key)?;
    let Work::Send {
        in_flight,
        handed_over,
    } = &mut object.work
    else {
        return None;
    };
    let vport = nic.vports.get_mut(object.vport)?;
    let (wq, caution) = ctx.queues.sq_with_caution(object.wq)?;
    let batch = &mut nic.batch;
    let rules = Rules::of(vport, object.wq, object.cq);
    batch.begin();
    fill(
        ctx.platform,
        batch,
        (object.wq, wq, caution),
        &rules,
        handed_over,
        most,
    );
    let taken = batch.taken();
    if taken == 0 {
        return Some(0);
    }
    let mut result = TransmitResult::default();
    let packets = batch.packets.as_slice();
    if !packets.is_empty() {
        let (port, segments) = (object.vport as u32, batch.segments.as_slice());
        result = ctx.platform.transmit(port, object.queue, packets, segments);
        count_destinations(vport, &result);
    }
    let place = (object.vport, object.wq, object.cq);
    let mut completed = 0;
    if result.statuses.is_empty()
        && in_flight.is_empty()
        && let Some(plain) = batch.all_plain()
    {
        completed = complete_plain(ctx.queues, vport, place, plain);
        if completed == taken {
            return Some(taken);
        }
    }
    batch.remember_plain();
    let sent = &mut batch.sent.as_mut_slice()[completed..];
    apply(sent, &result);
    // Completions come in order: behind those that wait, these wait too.
    let done = match in_flight.is_empty() {
        true => decided(sent.iter()),
        false => 0,
    };
    let (now, later) = sent.split_at(done);
    in_flight.extend(later);
    complete(ctx.platform, ctx.queues, vport, place, now);
    complete_front(ctx, key);
    Some(taken)
}

/// Fills a batch with up to `most` entries of a send queue.
fn fill(
    platform: &mut impl Platform,
    batch: &mut Batch,
    (id, wq, caution): (u32, &mut Wq, &mut Caution),
    rules: &Rules,
    handed_over: &mut Option<u32>,
    most: usize,
) {
    // Faults are met in one place.
    let simple = !caution.is_on() && handed_over.is_none() && cfg!(not(feature = "faults"));
    while batch.taken() < most && wq.has_work() {
        if simple && fill_plain(batch, wq, rules, most) > 0 {
            continue;
        }
        batch.remember_plain();
        let skip = caution.is_on() && caution.attempt_next(platform, QueueType::Sq, id, wq);
        let entry = &mut batch.entry;
        let fetched = wq.fetch(platform, entry);
        if fetched == Fetched::Nothing {
            break;
        }
        let first = batch.segments.len();
        let checked = rules.check(fetched, entry, &mut batch.segments);
        let mut packet = InFlight {
            position: entry.position,
            end: entry.end,
            length: 0,
            suppress: false,
            outcome: None,
        };
        match checked {
            _ if skip => packet.outcome = Some(CqeType::TxGdmaError),
            Err(outcome) => packet.outcome = Some(outcome),
            Ok(checked) => {
                packet.length = checked.length;
                packet.suppress = checked.suppress;
                if was_handed_over(handed_over, &packet) {
                    packet.outcome = Some(CqeType::TxOkay);
                } else {
                    // There is room for as many as are taken at most.
                    let _ = batch.packets.push(checked.packet);
                    #[cfg(feature = "faults")]
                    crate::faults::meet(
                        platform,
                        (wq, caution),
                        (packet.position, packet.end),
                        &mut batch.segments,
                    );
                }
            }
        }
        if packet.outcome.is_some() {
            batch.segments.truncate(first);
        }
        let _ = batch.sent.push(packet);
    }
}

/// Takes plain packets for as long as they are good, until there are `most`.
/// Returns how many there were.
#[inline(never)]
fn fill_plain(batch: &mut Batch, wq: &mut Wq, rules: &Rules, most: usize) -> usize {
    let Some(units) = wq.units(most - batch.taken()) else {
        return 0;
    };
    let (packets, segments) = (batch.packets.spare(), batch.segments.spare());
    let (count, bytes) = take_plain(units, packets, segments, wq.next(), rules);
    wq.pass_units(count);
    batch.add_plain(count, bytes);
    count
}

/// Takes plain packets from `position` on for as long as they are good. Returns
/// how many there were, and their bytes. By itself, so that all of it fits registers.
#[inline(never)]
fn take_plain(
    units: impl Iterator<Item = Unit>,
    packets: &mut [TxPacket],
    segments: &mut [Segment],
    mut position: u32,
    rules: &Rules,
) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for (unit, (packet, segment)) in units.zip(packets.iter_mut().zip(segments)) {
        position = position.wrapping_add(WQE_UNIT);
        let simple = Simple::of(unit);
        let Some(checked) = rules.check_plain(&simple, position) else {
            break;
        };
        *packet = checked;
        (segment.address, segment.length) = (simple.sge.address, simple.sge.size);
        bytes += u64::from(simple.sge.size);
        count += 1;
    }
    (count, bytes)
}

/// Whether a packet went out already before a failure; forgets about that
/// with the first that did not.
#[inline]
fn was_handed_over(handed_over: &mut Option<u32>, packet: &InFlight) -> bool {
    let Some(last) = *handed_over else {
        return false;
    };
    if last.wrapping_sub(packet.end) >= 1 << 31 {
        *handed_over = None;
    }
    handed_over.is_some()
}

/// The completion that a status of the host becomes; None while pending.
fn outcome(status: TxStatus) -> Option<CqeType> {
    Some(match status {
        // A packet that the wire drops was sent, as far as the device goes.
        TxStatus::Sent | TxStatus::Dropped => CqeType::TxOkay,
        TxStatus::Pending => return None,
        TxStatus::MemoryFault => CqeType::TxGdmaError,
        TxStatus::TooLong => CqeType::TxMtuDrop,
        TxStatus::BadHeaders => CqeType::TxHdrProcessingError,
    })
}

/// Gives the packets of a batch their outcomes, in order.
fn apply(sent: &mut [InFlight], result: &TransmitResult) {
    let mut statuses = result.statuses.iter();
    for packet in sent.iter_mut().filter(|packet| packet.outcome.is_none()) {
        packet.outcome = match statuses.next() {
            Some(status) => outcome(*status),
            None => Some(CqeType::TxOkay),
        };
    }
}

/// How many packets from the front on have an outcome.
fn decided<'a>(packets: impl Iterator<Item = &'a InFlight>) -> usize {
    packets.take_while(|p| p.outcome.is_some()).count()
}

fn count_destinations(vport: &mut Vport, result: &TransmitResult) {
    let stats = &mut vport.stats;
    stats.tx_mcast_pkts += u64::from(result.multicast.0);
    stats.tx_mcast_bytes += result.multicast.1;
    stats.tx_bcast_pkts += u64::from(result.broadcast.0);
    stats.tx_bcast_bytes += result.broadcast.1;
}

/// Transmits that were pending have ended.
pub fn transmitted(ctx: &mut Context<'_, impl Platform>, key: usize, done: &[TxCompletion]) {
    let Some(object) = ctx.nic.objects.get_mut(key) else {
        return;
    };
    let Work::Send { in_flight, .. } = &mut object.work else {
        return;
    };
    for completion in done {
        let pending = in_flight.iter_mut().find(|p| p.end == completion.id);
        if let Some(packet) = pending {
            packet.outcome = packet.outcome.or(outcome(completion.status));
        }
    }
    complete_front(ctx, key);
}

/// Completes transmits from the front on, as far as their outcome is known.
fn complete_front(ctx: &mut Context<'_, impl Platform>, key: usize) {
    let Nic {
        objects, vports, ..
    } = &mut *ctx.nic;
    let Some(object) = objects.get_mut(key) else {
        return;
    };
    let Work::Send { in_flight, .. } = &mut object.work else {
        return;
    };
    let Some(vport) = vports.get_mut(object.vport) else {
        return;
    };
    let place = (object.vport, object.wq, object.cq);
    let done = decided(in_flight.iter());
    if done == 0 {
        return;
    }
    let (front, back) = in_flight.as_slices();
    let now = &front[..done.min(front.len())];
    complete(ctx.platform, ctx.queues, vport, place, now);
    let now = &back[..done - now.len()];
    complete(ctx.platform, ctx.queues, vport, place, now);
    in_flight.drain(..done);
}

/// Completes packets that have an outcome, or were sent if they have none.
fn complete<P: Platform>(
    platform: &mut P,
    queues: &mut Queues,
    vport: &mut Vport,
    (index, sq, cq): (usize, u32, u32),
    packets: &[InFlight],
) {
    queues.complete_sends(sq, cq, |wq, cq| {
        let Some(last) = packets.last() else {
            return;
        };
        for packet in packets {
            let outcome = packet.outcome.unwrap_or(CqeType::TxOkay);
            if outcome == CqeType::TxOkay {
                count_sent(vport, 1, packet.length.into());
                if packet.suppress {
                    continue;
                }
            } else {
                count_failure(platform, vport, index, outcome);
            }
            let mut words = [0; 7];
            [words[0], words[1]] = completion(outcome, packet.position, wq.ring.size() - 1);
            let completes = Completes {
                wq: sq,
                is_sq: true,
                end: packet.end,
                note: 0,
            };
            cq.post(platform, words, 0, completes);
        }
        wq.complete_to(last.end);
    });
}

/// Completes plain packets that were sent, for as long as there is room.
/// Returns how many there were.
#[inline(never)]
fn complete_plain(
    queues: &mut Queues,
    vport: &mut Vport,
    (_, sq, cq): (usize, u32, u32),
    (packets, segments, mut bytes): (&[TxPacket], &[Segment], u64),
) -> usize {
    let completed = queues.complete_sends(sq, cq, |wq, cq| {
        let mask = wq.ring.size() - 1;
        let count = cq.post_run((sq, true), packets, move |packet| {
            let position = packet.id.wrapping_sub(WQE_UNIT);
            Plain {
                words: completion(CqeType::TxOkay, position, mask),
                rest: 0,
                end: packet.id,
            }
        });
        for segment in &segments[count..] {
            bytes -= u64::from(segment.length);
        }
        count_sent(vport, count as u64, bytes);
        if let Some(last) = packets[..count].last() {
            wq.complete_to(last.id);
        }
        count
    });
    completed.unwrap_or(0)
}

/// The beginning of a completion of the entry at `position`, for a ring with
/// this mask.
#[inline(always)]
fn completion(outcome: CqeType, position: u32, mask: u32) -> [u64; 2] {
    let wqe_offset = (position & mask) / WQE_UNIT;
    let header = CqeHeader::of(outcome).into_bits();
    [header.into(), u64::from(wqe_offset << 5)]
}

fn count_sent(vport: &mut Vport, packets: u64, bytes: u64) {
    let stats = &mut vport.stats;
    stats.tx_bytes += bytes;
    stats.tx_ucast_pkts += packets;
    stats.tx_ucast_bytes += bytes;
}

#[cold]
fn count_failure(platform: &mut impl Platform, vport: &mut Vport, index: usize, outcome: CqeType) {
    let stats = &mut vport.stats;
    match outcome {
        CqeType::TxMtuDrop => stats.tx_err_mtu_violation += 1,
        CqeType::TxInvalidOob | CqeType::TxHdrProcessingError => stats.tx_err_inval_oob += 1,
        CqeType::TxVportIdxOutOfRange => stats.tx_err_inval_vport_offset += 1,
        CqeType::TxVportDisabled => stats.tx_err_vport_disabled += 1,
        _ => stats.tx_err_gdma += 1,
    }
    if vport.faults.hit() {
        platform.log(
            Level::Warn,
            format_args!("vport {index}: transmit failed: {outcome:?}"),
        );
    }
}
