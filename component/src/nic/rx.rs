//! Receive: from receive queue entries to buffers for the host, and from
//! packets to completions.

use super::objects::Work;
use super::{MANA_MEM_KEY, Nic, Steering, Vport};
use crate::cq::Completes;
use crate::hwc::Context;
use crate::platform::{Level, Platform, RxBuffer, RxFlags, RxPacket, Segment};
use crate::queues::Queues;
use crate::wire::gdma::Status;
use crate::wire::oob::RxFlags as CompletionFlags;
use crate::wire::oob::{CqeHeader, CqeType, PerPacket, RxCompletion};
use crate::wire::queue::{QueueType, Sge};
use crate::wq::{Entry, Fetched};
use zerocopy::IntoBytes;

/// Buffers handed over in one call.
const BATCH: usize = 256;
/// The most buffers that the host holds at a time.
const MAX_POSTED: usize = 2048;

/// A receive queue entry that was read and not yet completed.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    /// Where its entry begins.
    pub position: u32,
    /// Where its entry ends, which is also the buffer's name.
    pub end: u32,
    /// It made no sense, and the host does not hold it.
    pub bad: bool,
}

/// Hands receive queue entries to the host, if the vport receives.
pub fn post_buffers(ctx: &mut Context<'_, impl Platform>, key: usize) {
    loop {
        let most = if ctx.queues.caution.is_on() { 1 } else { BATCH };
        if post_batch(ctx, key, most) != Some(most) {
            break;
        }
    }
    complete_bad(ctx, key);
}

/// Returns how many entries it took.
fn post_batch(ctx: &mut Context<'_, impl Platform>, key: usize, most: usize) -> Option<usize> {
    let nic = &mut *ctx.nic;
    let object = nic.objects.get_mut(key)?;
    let Work::Receive { posted } = &mut object.work else {
        return None;
    };
    if !nic.vports.get(object.vport)?.steering.enabled {
        return None;
    }
    let (wq, caution) = ctx.queues.rq_with_caution(object.wq)?;
    let scratch = &mut nic.scratch;
    scratch.buffers.clear();
    scratch.segments.clear();
    let before = posted.len();
    while scratch.buffers.len() < most && posted.len() < MAX_POSTED {
        let skip =
            caution.is_on() && caution.attempt_next(ctx.platform, QueueType::Rq, object.wq, wq);
        let fetched = wq.fetch(ctx.platform, &mut scratch.entry);
        if fetched == Fetched::Nothing {
            break;
        }
        let entry = &scratch.entry;
        let bad = skip || fetched != Fetched::Entry || !is_buffer(entry);
        posted.push_back(Posted {
            position: entry.position,
            end: entry.end,
            bad,
        });
        if !bad {
            let segments = entry.sgl().iter().filter(|sge| sge.size != 0);
            let first = scratch.segments.len();
            scratch.segments.extend(segments.map(|s| Segment {
                address: s.address,
                length: s.size,
            }));
            let segments = (scratch.segments.len() - first) as u16;
            scratch.buffers.push(RxBuffer {
                id: entry.end,
                segments,
            });
        }
    }
    if scratch.buffers.is_empty() {
        return Some(0);
    }
    let port = object.vport as u32;
    let (buffers, segments) = (&scratch.buffers, &scratch.segments);
    let taken = ctx
        .platform
        .post_receive(port, object.queue, buffers, segments) as usize;
    if let Some(refused) = buffers.get(taken) {
        // What the host did not take is read again later.
        let keep = (before..posted.len()).find(|i| posted[*i].end == refused.id);
        let keep = keep.unwrap_or(before);
        wq.rewind_to(posted[keep].position);
        posted.truncate(keep);
        return Some(0);
    }
    Some(buffers.len())
}

fn is_buffer(entry: &Entry) -> bool {
    let usable = |sge: &Sge| sge.size == 0 || sge.mem_key == MANA_MEM_KEY;
    let sgl = entry.sgl();
    sgl.iter().all(usable) && sgl.iter().any(|sge| sge.size != 0)
}

/// Completes buffers at the front that make no sense; nothing will ever be
/// received into them.
fn complete_bad(ctx: &mut Context<'_, impl Platform>, key: usize) {
    let Nic {
        objects, vports, ..
    } = &mut *ctx.nic;
    let Some(object) = objects.get_mut(key) else {
        return;
    };
    let Work::Receive { posted } = &mut object.work else {
        return;
    };
    while let Some(front) = posted.front().copied().filter(|front| front.bad) {
        posted.pop_front();
        let packet = RxPacket {
            id: front.end,
            length: 0,
            vlan_tci: 0,
            flags: RxFlags::TRUNCATED,
        };
        complete(
            ctx.platform,
            ctx.queues,
            (object.wq, object.cq),
            &front,
            packet,
        );
        if vports
            .get_mut(object.vport)
            .is_some_and(|vport| vport.faults.hit())
        {
            ctx.platform.log(
                Level::Warn,
                format_args!("vport {}: a receive buffer is malformed", object.vport),
            );
        }
    }
}

/// Packets were received into buffers that the host held.
pub fn received(ctx: &mut Context<'_, impl Platform>, key: usize, packets: &[RxPacket]) {
    for packet in packets {
        complete_bad(ctx, key);
        let Nic {
            objects, vports, ..
        } = &mut *ctx.nic;
        let Some(object) = objects.get_mut(key) else {
            return;
        };
        let Work::Receive { posted } = &mut object.work else {
            return;
        };
        let Some(front) = posted
            .front()
            .copied()
            .filter(|front| front.end == packet.id)
        else {
            ctx.platform.log(
                Level::Error,
                format_args!("the host received into buffer {}, out of order", packet.id),
            );
            return;
        };
        posted.pop_front();
        if let Some(vport) = vports.get_mut(object.vport) {
            count(vport, packet);
        }
        complete(
            ctx.platform,
            ctx.queues,
            (object.wq, object.cq),
            &front,
            *packet,
        );
    }
    post_buffers(ctx, key);
}

#[inline]
fn complete(
    platform: &mut impl Platform,
    queues: &mut Queues,
    (rq, cq): (u32, u32),
    buffer: &Posted,
    packet: RxPacket,
) {
    let lost = RxFlags::TRUNCATED | RxFlags::MEMORY_FAULT;
    let cqe_type = if packet.flags.intersects(lost) {
        CqeType::RxTruncated
    } else {
        CqeType::RxOkay
    };
    let Some(wq) = queues.rq(rq) else { return };
    wq.complete_to(buffer.end);
    let reused_below = wq.reused_below();
    let completion = RxCompletion {
        header: CqeHeader::of(cqe_type).into_bits(),
        flags: completion_flags(&packet).into_bits(),
        packets: [
            PerPacket {
                pkt_len: packet.length as u16,
                ..PerPacket::default()
            },
            PerPacket::default(),
            PerPacket::default(),
            PerPacket::default(),
        ],
        rx_wqe_offset: buffer.position & (wq.ring.size() - 1),
    };
    let completes = Completes {
        wq: rq,
        is_sq: false,
        end: buffer.end,
        reused_below,
        note: 0,
    };
    post(platform, queues, cq, &completion, completes);
}

fn post(
    platform: &mut impl Platform,
    queues: &mut Queues,
    cq: u32,
    completion: &RxCompletion,
    completes: Completes,
) {
    let mut words = [0; 7];
    words
        .as_mut_bytes()
        .copy_from_slice(&completion.as_bytes()[..56]);
    queues.post_completion(platform, cq, &words, completion.rx_wqe_offset, completes);
}

fn completion_flags(packet: &RxPacket) -> CompletionFlags {
    let flags = packet.flags;
    let tagged = flags.contains(RxFlags::VLAN);
    let good = flags.contains(RxFlags::L4_CHECKSUM_GOOD);
    let bad = flags.contains(RxFlags::L4_CHECKSUM_BAD);
    let (tcp, udp) = (flags.contains(RxFlags::TCP), flags.contains(RxFlags::UDP));
    CompletionFlags::new()
        .with_vlantag_present(tagged)
        .with_vlan_id(if tagged { packet.vlan_tci & 0xfff } else { 0 })
        .with_iphdr_csum_succeed(flags.contains(RxFlags::IP_CHECKSUM_GOOD))
        .with_iphdr_csum_fail(flags.contains(RxFlags::IP_CHECKSUM_BAD))
        .with_tcp_csum_succeed(tcp && good)
        .with_tcp_csum_fail(tcp && bad)
        .with_udp_csum_succeed(udp && good)
        .with_udp_csum_fail(udp && bad)
}

fn count(vport: &mut Vport, packet: &RxPacket) {
    let stats = &mut vport.stats;
    let length = u64::from(packet.length);
    if packet
        .flags
        .intersects(RxFlags::TRUNCATED | RxFlags::MEMORY_FAULT)
    {
        stats.rx_discards_nowqe += 1;
        return;
    }
    stats.rx_bytes += length;
    let (packets, bytes) = if packet.flags.contains(RxFlags::BROADCAST) {
        (&mut stats.rx_bcast_pkts, &mut stats.rx_bcast_bytes)
    } else if packet.flags.contains(RxFlags::MULTICAST) {
        (&mut stats.rx_mcast_pkts, &mut stats.rx_mcast_bytes)
    } else {
        (&mut stats.rx_ucast_pkts, &mut stats.rx_ucast_bytes)
    };
    *packets += 1;
    *bytes += length;
}

/// Says on the receive queue that everything received before is completed.
///
/// # Errors
///
/// [`Status::NoResources`] if the completion queue is full.
pub fn fence(ctx: &mut Context<'_, impl Platform>, key: usize) -> Result<(), Status> {
    let Some(object) = ctx.nic.objects.get(key) else {
        return Err(Status::InvalidHandle);
    };
    let wq = ctx.queues.rq(object.wq).ok_or(Status::InvalidHandle)?;
    let (_, _, done) = wq.positions();
    let completes = Completes {
        wq: object.wq,
        is_sq: false,
        end: done,
        reused_below: wq.reused_below(),
        note: 0,
    };
    let completion = RxCompletion {
        header: CqeHeader::of(CqeType::RxObjectFence).into_bits(),
        flags: 0,
        packets: [PerPacket::default(); 4],
        rx_wqe_offset: 0,
    };
    let mut words = [0; 7];
    words
        .as_mut_bytes()
        .copy_from_slice(&completion.as_bytes()[..56]);
    if ctx
        .queues
        .post_completion(ctx.platform, object.cq, &words, 0, completes)
    {
        Ok(())
    } else {
        Err(Status::NoResources)
    }
}

/// Changes how a vport's packets find their queue.
pub fn steer(ctx: &mut Context<'_, impl Platform>, vport: usize, steering: Steering) {
    let was = core::mem::replace(&mut ctx.nic.vports[vport].steering, steering);
    let now = ctx.nic.vports[vport].steering.enabled;
    let Some(key) = ctx.nic.receive_object(vport, 0) else {
        return;
    };
    match (was.enabled, now) {
        (false, true) => post_buffers(ctx, key),
        (true, false) => take_back(ctx, key),
        _ => {}
    }
}

/// Takes the buffers back from the host; they are posted again when the
/// vport receives again.
fn take_back(ctx: &mut Context<'_, impl Platform>, key: usize) {
    let Some(object) = ctx.nic.objects.get_mut(key) else {
        return;
    };
    let Work::Receive { posted } = &mut object.work else {
        return;
    };
    ctx.platform
        .cancel_receive(object.vport as u32, object.queue);
    if let (Some(first), Some(wq)) = (posted.front(), ctx.queues.rq(object.wq)) {
        wq.rewind_to(first.position);
    }
    posted.clear();
}
