//! Receive: from receive queue entries to buffers for the host, and from
//! packets to completions.

use super::batch::{BUFFERS, Batch, List};
use super::objects::Work;
use super::posted::{Posted, Run};
use super::{MANA_MEM_KEY, Steering, Vport};
use crate::gdma::caution::Caution;
use crate::gdma::cq::{Completes, Cq, Plain};
use crate::gdma::wq::{Fetched, Simple, Unit, Wq};
use crate::hwc::Context;
use device_kit::platform::{Level, Platform, RxBuffer, RxFlags, RxPacket, Segment};
use mana_wire::gdma::Status;
use mana_wire::oob::RxFlags as CompletionFlags;
use mana_wire::oob::{CqeHeader, CqeType, RxCompletion};
use mana_wire::queue::{QueueType, Sge, WQE_UNIT};

/// The most buffers that the host holds at a time.
const MAX_POSTED: usize = 2048;
/// Entries worked on in one call.
const BUDGET: usize = 2048;

/// Hands receive queue entries to the host, if the vport receives. What is too
/// much for one call waits.
pub fn post_buffers(ctx: &mut Context<'_, impl Platform>, key: usize) {
    let mut left = BUDGET;
    while left > 0 {
        let most = if ctx.queues.caution.is_on() {
            1
        } else {
            BUFFERS
        };
        left = left.saturating_sub(most);
        let more = post_batch(ctx, key, most) == Some(true);
        // Those that are given back make room for others.
        complete_bad(ctx, key);
        if !more {
            return;
        }
    }
    ctx.nic.wait(key);
}

/// Takes up to `most` entries. True if there may be more to take.
fn post_batch(ctx: &mut Context<'_, impl Platform>, key: usize, most: usize) -> Option<bool> {
    let nic = &mut *ctx.nic;
    let object = nic.objects.get_mut(key)?;
    let Work::Receive { posted } = &mut object.work else {
        return None;
    };
    if !nic.vports.get(object.vport)?.steering.enabled {
        return None;
    }
    let (wq, caution) = ctx.queues.rq_with_caution(object.wq)?;
    let most = most.min(MAX_POSTED.saturating_sub(posted.entries()));
    nic.batch.begin();
    let more = gather(
        ctx.platform,
        &mut nic.batch,
        (object.wq, wq, caution),
        posted,
        most,
    );
    let buffers = nic.batch.buffers.as_slice();
    if buffers.is_empty() {
        return Some(more);
    }
    let (port, segments) = (object.vport as u32, nic.batch.segments.as_slice());
    let taken = ctx
        .platform
        .post_receive(port, object.queue, buffers, segments) as usize;
    if let Some(refused) = buffers.get(taken) {
        // What the host did not take is read again later.
        if let Some(position) = posted.cut(refused.id) {
            wq.rewind_to(position);
        }
        return Some(false);
    }
    Some(more)
}

/// Fills a batch with up to `most` entries of a receive queue. True if there
/// may be more of them.
fn gather(
    platform: &mut impl Platform,
    batch: &mut Batch,
    (id, wq, caution): (u32, &mut Wq, &mut Caution),
    posted: &mut Posted,
    most: usize,
) -> bool {
    let cautious = caution.is_on();
    let end = posted.entries() + most;
    while posted.entries() < end && batch.has_room() {
        if !cautious && gather_simple(batch, wq, posted, end) > 0 {
            continue;
        }
        let skip = cautious && caution.attempt_next(platform, QueueType::Rq, id, wq);
        let entry = &mut batch.entry;
        let fetched = wq.fetch(platform, entry);
        if fetched == Fetched::Nothing {
            return false;
        }
        let first = batch.segments.len();
        let bad = skip || fetched != Fetched::Entry || !add(entry.sgl(), &mut batch.segments);
        if bad {
            batch.segments.truncate(first);
        } else {
            let segments = (batch.segments.len() - first) as u16;
            let id = entry.end;
            // There is room for as many buffers as entries are taken at most.
            let _ = batch.buffers.push(RxBuffer { id, segments });
        }
        posted.add(Run::of_one(entry.position, entry.end, bad));
    }
    most > 0
}

/// Takes simple entries for as long as they are good, until `end` are posted.
/// Returns how many there were.
#[inline(never)]
fn gather_simple(batch: &mut Batch, wq: &mut Wq, posted: &mut Posted, end: usize) -> usize {
    let Some(units) = wq.units(end - posted.entries()) else {
        return 0;
    };
    let (buffers, segments) = (batch.buffers.spare(), batch.segments.spare());
    let position = wq.next();
    let count = take_simple(units, buffers, segments, position);
    if count == 0 {
        return 0;
    }
    wq.pass_units(count);
    posted.add(Run::of_units(position, count as u32));
    batch.buffers.add(count);
    batch.segments.add(count);
    count
}

/// Takes simple entries from `position` on for as long as they are good. Returns
/// how many there were. By itself, so that all of it fits registers.
#[inline(never)]
fn take_simple(
    units: impl Iterator<Item = Unit>,
    buffers: &mut [RxBuffer],
    segments: &mut [Segment],
    mut position: u32,
) -> usize {
    let mut count = 0;
    for (unit, (buffer, segment)) in units.zip(buffers.iter_mut().zip(segments)) {
        let simple = Simple::of(unit);
        let sge = simple.sge;
        // One branch, not three.
        if !(simple.is_simple() & (sge.size != 0) & (sge.mem_key == MANA_MEM_KEY)) {
            break;
        }
        position = position.wrapping_add(WQE_UNIT);
        (buffer.id, buffer.segments) = (position, 1);
        (segment.address, segment.length) = (sge.address, sge.size);
        count += 1;
    }
    count
}

/// Adds a buffer's segments to `segments`. False if it has none, or one that
/// is no memory of the NIC's.
fn add(sgl: &[Sge], segments: &mut List<Segment>) -> bool {
    let mut found = false;
    for sge in sgl.iter().filter(|sge| sge.size != 0) {
        let segment = Segment {
            address: sge.address,
            length: sge.size,
        };
        if sge.mem_key != MANA_MEM_KEY || !segments.push(segment) {
            return false;
        }
        found = true;
    }
    found
}

/// Completes buffers at the front that make no sense; nothing will ever be
/// received into them.
fn complete_bad(ctx: &mut Context<'_, impl Platform>, key: usize) {
    complete_received(ctx, key, &[]);
}

/// Packets were received into buffers that the host held.
pub fn received(ctx: &mut Context<'_, impl Platform>, key: usize, packets: &[RxPacket]) {
    complete_received(ctx, key, packets);
    post_buffers(ctx, key);
}

/// Completes buffers from the front on: those of `packets`, and those that
/// make no sense.
fn complete_received<P: Platform>(
    ctx: &mut Context<'_, P>,
    key: usize,
    packets: &[RxPacket],
) -> Option<()> {
    let nic = &mut *ctx.nic;
    let object = nic.objects.get_mut(key)?;
    let Work::Receive { posted } = &mut object.work else {
        return None;
    };
    let vport = nic.vports.get_mut(object.vport)?;
    let (port, platform) = (object.vport, &mut *ctx.platform);
    ctx.queues
        .complete_receives(object.wq, object.cq, |wq, cq| {
            let mut completer = Completer {
                wq,
                cq,
                id: object.wq,
            };
            let mut packets = packets;
            loop {
                if posted.front_if(true).is_some() {
                    completer.complete_bad(platform, posted, vport, port);
                }
                let plain = completer.complete_plain(posted, vport, packets);
                if plain > 0 {
                    packets = &packets[plain..];
                    continue;
                }
                let Some((packet, others)) = packets.split_first() else {
                    return;
                };
                packets = others;
                let front = posted.front().filter(|run| run.first_end() == packet.id);
                let Some(front) = front else {
                    platform.log(
                        Level::Error,
                        format_args!("the host received into buffer {}, out of order", packet.id),
                    );
                    return;
                };
                posted.pass(1);
                count(vport, packet);
                completer.complete(platform, front, packet);
            }
        })
}

/// Posts completions of a receive queue.
struct Completer<'a> {
    wq: &'a mut Wq,
    cq: &'a mut Cq,
    /// The receive queue's.
    id: u32,
}

impl Completer<'_> {
    /// Completes buffers of entries that are alike, into which packets to this one
    /// address were received without a fault, as most are, for as long as there is
    /// room. Returns how many there were.
    #[inline(never)]
    fn complete_plain(
        &mut self,
        posted: &mut Posted,
        vport: &mut Vport,
        packets: &[RxPacket],
    ) -> usize {
        let run = posted.front_if(false).filter(|_| self.cq.takes_runs());
        let Some(run) = run else {
            return 0;
        };
        let (plain, mut bytes) = plain(&run, packets);
        let packets = &packets[..plain];
        let mask = self.wq.ring.size() - 1;
        let first = packets.first().map(|packet| {
            let header = CqeHeader::of(CqeType::RxOkay);
            RxCompletion::first_words(header, completion_flags(packet), 0)
        });
        let [first, second] = first.unwrap_or_default();
        let id = (self.id, false);
        let count = self.cq.post_run(id, packets, move |packet| Plain {
            words: [first, second | u64::from(packet.length as u16)],
            rest: packet.id.wrapping_sub(run.size) & mask,
            end: packet.id,
        });
        posted.pass(count);
        let (done, others) = packets.split_at(count);
        if let Some(last) = done.last() {
            self.wq.complete_to(last.id);
        }
        for packet in others {
            bytes -= u64::from(packet.length);
        }
        let stats = &mut vport.stats;
        stats.rx_bytes += bytes;
        stats.rx_ucast_pkts += count as u64;
        stats.rx_ucast_bytes += bytes;
        count
    }

    #[cold]
    fn complete_bad(
        &mut self,
        platform: &mut impl Platform,
        posted: &mut Posted,
        vport: &mut Vport,
        port: usize,
    ) {
        while let Some(front) = posted.front_if(true) {
            posted.pass(1);
            let packet = RxPacket {
                id: front.first_end(),
                length: 0,
                vlan_tci: 0,
                flags: RxFlags::TRUNCATED,
                hash: 0,
            };
            self.complete(platform, front, &packet);
            if vport.faults.hit() {
                platform.log(
                    Level::Warn,
                    format_args!("vport {port}: a receive buffer is malformed"),
                );
            }
        }
    }

    /// Completes the first buffer of a run.
    #[inline(always)]
    fn complete(&mut self, platform: &mut impl Platform, buffer: Run, packet: &RxPacket) {
        let lost = RxFlags::TRUNCATED | RxFlags::MEMORY_FAULT;
        let cqe_type = if packet.flags.intersects(lost) {
            CqeType::RxTruncated
        } else {
            CqeType::RxOkay
        };
        self.wq.complete_to(buffer.first_end());
        let flags = completion_flags(packet);
        let words = RxCompletion::words(CqeHeader::of(cqe_type), flags, packet.length as u16);
        let offset = buffer.position & (self.wq.ring.size() - 1);
        let completes = Completes {
            wq: self.id,
            is_sq: false,
            end: buffer.first_end(),
            note: 0,
        };
        self.cq.post(platform, words, offset, completes);
    }
}

/// How many packets from the front on were received without a fault, to this one
/// address, and into the buffers of a run, with the same to say of each; and their
/// bytes.
#[inline(never)]
fn plain(run: &Run, packets: &[RxPacket]) -> (usize, u64) {
    let special =
        RxFlags::TRUNCATED | RxFlags::MEMORY_FAULT | RxFlags::BROADCAST | RxFlags::MULTICAST;
    let Some(first) = packets.first().filter(|it| !it.flags.intersects(special)) else {
        return (0, 0);
    };
    let (mut count, mut bytes) = (0, 0);
    let mut end = run.position;
    for packet in packets.iter().take(run.count as usize) {
        end = end.wrapping_add(run.size);
        // One branch for all that must be equal.
        let tag = packet.vlan_tci ^ first.vlan_tci;
        let flags = packet.flags.bits() ^ first.flags.bits();
        let unexpected = end ^ packet.id;
        if unexpected | u32::from(tag | flags) != 0 {
            break;
        }
        bytes += u64::from(packet.length);
        count += 1;
    }
    (count, bytes)
}

#[inline(never)]
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

#[inline(always)]
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
/// [`Status::NoResources`] if the completion queue is full, or may be: a fence
/// has no entry of its own that the driver made room for.
pub fn fence(ctx: &mut Context<'_, impl Platform>, key: usize) -> Result<(), Status> {
    let Some(object) = ctx.nic.objects.get(key) else {
        return Err(Status::InvalidHandle);
    };
    let (rq, platform) = (object.wq, &mut *ctx.platform);
    let header = CqeHeader::of(CqeType::RxObjectFence);
    let words = RxCompletion::words(header, CompletionFlags::new(), 0);
    let posted = ctx.queues.complete_receives(rq, object.cq, |wq, cq| {
        let (_, _, done) = wq.positions();
        let completes = Completes {
            wq: rq,
            is_sq: false,
            end: done,
            note: 0,
        };
        // An outstanding buffer has a CQE that the driver keeps free, and that
        // serves the fence: Linux waits for it before it sends another.
        let has_room = wq.has_outstanding() || cq.has_spare(wq.reused_below());
        has_room && cq.post(platform, words, 0, completes)
    });
    match posted {
        Some(true) => Ok(()),
        Some(false) => Err(Status::NoResources),
        None => Err(Status::InvalidHandle),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(id: u32, flags: RxFlags, vlan_tci: u16) -> RxPacket {
        RxPacket {
            id,
            length: 100,
            vlan_tci,
            flags,
            hash: 0,
        }
    }

    #[test]
    fn a_run_ends_where_something_else_is_to_be_said() {
        let (none, tcp) = (RxFlags::empty(), RxFlags::TCP);
        let units = Run::of_units(0, 2);
        let run = |second: RxPacket| plain(&units, &[packet(32, none, 0), second]);
        assert_eq!(run(packet(64, none, 0)), (2, 200));
        assert_eq!(run(packet(64, tcp, 0)), (1, 100));
        assert_eq!(run(packet(64, none, 1)), (1, 100));
        assert_eq!(run(packet(128, none, 0)), (1, 100), "another buffer");
        let two = [packet(32, none, 0), packet(64, none, 0)];
        assert_eq!(plain(&Run::of_units(0, 1), &two), (1, 100));
        let long = Run::of_one(64, 128, false);
        assert_eq!(plain(&long, &[packet(128, tcp, 5)]), (1, 100));
        for special in [RxFlags::TRUNCATED, RxFlags::MEMORY_FAULT] {
            assert_eq!(plain(&units, &[packet(32, special, 0)]), (0, 0));
        }
        assert_eq!(plain(&units, &[]), (0, 0));
    }
}
