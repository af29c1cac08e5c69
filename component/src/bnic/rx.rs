//! Receive: from receive WQEs to buffers for the host, and from packets to
//! completions.

use device_kit::platform::{Level, Platform, RxBuffer, RxFlags, RxPacket, Segment};
use mana_wire::gdma::Status;
use mana_wire::oob::{CqeHeader, CqeType, RxCompletion, RxFlags as CompletionFlags, hash};
use mana_wire::queue::{Sge, WQE_UNIT};

use super::batch::{BUFFERS, Batch};
use super::ledger::{Ledger, Run};
use super::port::Port;
use crate::gdma::Context;
use crate::gdma::ids::{CqId, RqId, WqId};
use crate::gdma::journal::Record;
use crate::gdma::queue::cq::{Completion, Cq};
use crate::gdma::queue::wq::{Fetched, ShortWqe, Unit, Wq};
use crate::gdma::queues::Reader;
use crate::gdma::resources::MEM_KEY;
use crate::limits::MAX_BUFFERS;

/// The most buffers of a queue that the host holds at a time.
const MAX_POSTED: usize = 2048;
/// WQEs worked on in one call.
const BUDGET: usize = 2048;
/// What happened to a packet that was not received.
const LOST: RxFlags = RxFlags::TRUNCATED.union(RxFlags::MEMORY_FAULT);

/// A receive queue of a vport.
#[derive(Debug)]
pub struct ReceiveQueue {
    /// Number of its object.
    pub object: u32,
    /// Number among the vport's receive queues.
    pub number: u16,
    /// The queue that it takes buffers from.
    pub rq: RqId,
    /// The queue that it reports to.
    pub cq: CqId,
    /// Buffers that were taken and not completed.
    pub ledger: Ledger<Buffer>,
    /// It has WQEs that wait for their turn.
    pub is_waiting: bool,
}

/// What is known of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// The host holds it.
    Posted,
    /// Its WQE is malformed: nothing will ever be received into it.
    Malformed,
}

impl ReceiveQueue {
    /// Creates a queue that has taken nothing.
    pub fn new(object: u32, number: u16, rq: RqId, cq: CqId) -> Self {
        Self {
            object,
            number,
            rq,
            cq,
            ledger: Ledger::default(),
            is_waiting: false,
        }
    }
}

/// Returns how many buffers the host holds of each queue at most, if there can be
/// so many queues.
pub(super) fn most_buffers(queues: usize) -> usize {
    MAX_POSTED.min(MAX_BUFFERS / queues.max(1))
}

/// Hands receive WQEs to the host, if the vport receives; it holds `room` of them
/// at most. Returns whether something is left that is too much for one call.
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
        // Malformed ones that are given back make room for others.
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
    // What the host did not take is read again later.
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

/// Takes short WQEs from `position` on for as long as they are acceptable.
/// Returns how many there were. By itself, so that all of it fits registers.
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

/// Completes buffers from the front on: those of `packets`, and those that are
/// malformed.
pub(super) fn complete<P: Platform>(
    ctx: &mut Context<'_, P>,
    port: &mut Port,
    queue: &mut ReceiveQueue,
    packets: &[RxPacket],
) {
    let (id, platform) = (WqId::Rq(queue.rq), &mut *ctx.platform);
    let ledger = &mut queue.ledger;
    ctx.queues.complete(id, queue.cq, |wq, cq| {
        let mut completer = Completer { wq, cq, id };
        let mut packets = packets;
        while let Some(front) = ledger.front() {
            if front.known == Buffer::Malformed {
                completer.give_back(platform, port, front);
                ledger.pass(1);
                continue;
            }
            let Some(first) = packets.first() else {
                return;
            };
            let stretch = Stretch::of(&front, first, packets);
            if stretch.count == 0 {
                break;
            }
            let (alike, others) = packets.split_at(stretch.count);
            completer.post(platform, front.size, first, alike);
            port.stats
                .count_received(first.flags, stretch.count, stretch.bytes);
            ledger.pass(stretch.count);
            packets = others;
        }
        if let Some(packet) = packets.first() {
            platform.log(
                Level::Error,
                format_args!("the host received into buffer {}, out of order", packet.id),
            );
        }
    });
}

/// Posts completions of a receive queue.
struct Completer<'a> {
    wq: &'a mut Wq,
    cq: &'a mut Cq,
    id: WqId,
}

impl Completer<'_> {
    /// Completes buffers of WQEs of this size, of which the same is said as of
    /// the `first` packet but for the length.
    #[inline(never)]
    fn post(
        &mut self,
        platform: &mut impl Platform,
        size: u32,
        first: &RxPacket,
        packets: &[RxPacket],
    ) {
        let cqe_type = if first.flags.intersects(LOST) {
            CqeType::RxTruncated
        } else {
            CqeType::RxOkay
        };
        let mask = self.wq.mask();
        let flags = completion_flags(first);
        let [first, second] = RxCompletion::first_words(CqeHeader::of(cqe_type), flags, 0);
        self.cq
            .post(platform, self.id, packets, |packet| Completion {
                words: [
                    first,
                    second | u64::from(packet.length as u16),
                    packet.hash.into(),
                    0,
                    0,
                    0,
                    0,
                ],
                rest: packet.id.wrapping_sub(size) & mask,
                record: Record::completed(packet.id),
            });
        if let Some(last) = packets.last() {
            self.wq.complete_to(last.id);
        }
    }

    /// Completes the first of malformed buffers.
    #[cold]
    fn give_back(&mut self, platform: &mut impl Platform, port: &mut Port, run: Run<Buffer>) {
        let packet = RxPacket {
            id: run.first_end(),
            length: 0,
            vlan_tci: 0,
            flags: RxFlags::TRUNCATED,
            hash: 0,
        };
        self.post(platform, run.size, &packet, &[packet]);
        port.stats.note_fault(
            platform,
            port.index,
            format_args!("a receive buffer is malformed"),
        );
    }
}

/// Packets in a row of which the same is to be said but for the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    count: usize,
    bytes: u64,
}

impl Stretch {
    /// Returns those at the front, `first` among them, that were received into
    /// the buffers of a run.
    #[inline(never)]
    fn of(run: &Run<Buffer>, first: &RxPacket, packets: &[RxPacket]) -> Self {
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
        Self { count, bytes }
    }
}

/// Returns what the completion of a packet says of it.
#[inline(never)]
fn completion_flags(packet: &RxPacket) -> CompletionFlags {
    let flags = packet.flags;
    let is_tagged = flags.contains(RxFlags::VLAN);
    let good = flags.contains(RxFlags::L4_CHECKSUM_GOOD);
    let bad = flags.contains(RxFlags::L4_CHECKSUM_BAD);
    let (tcp, udp) = (flags.contains(RxFlags::TCP), flags.contains(RxFlags::UDP));
    CompletionFlags::new()
        .with_hashtype(hash_type(flags))
        .with_vlantag_present(is_tagged)
        .with_vlan_id(if is_tagged {
            packet.vlan_tci & 0xfff
        } else {
            0
        })
        .with_iphdr_csum_succeed(flags.contains(RxFlags::IP_CHECKSUM_GOOD))
        .with_iphdr_csum_fail(flags.contains(RxFlags::IP_CHECKSUM_BAD))
        .with_tcp_csum_succeed(tcp && good)
        .with_tcp_csum_fail(tcp && bad)
        .with_udp_csum_succeed(udp && good)
        .with_udp_csum_fail(udp && bad)
}

/// Returns what the hash of a packet is made of, 0 if it has none.
fn hash_type(flags: RxFlags) -> u16 {
    let is_udp = flags.contains(RxFlags::UDP);
    let [of_addresses, of_tcp, of_udp] = if flags.contains(RxFlags::IPV6) {
        [hash::IPV6, hash::TCP_IPV6, hash::UDP_IPV6]
    } else {
        [hash::IPV4, hash::TCP_IPV4, hash::UDP_IPV4]
    };
    if flags.contains(RxFlags::HASH_L4) {
        if is_udp { of_udp } else { of_tcp }
    } else if flags.contains(RxFlags::HASH_L3) {
        of_addresses
    } else {
        0
    }
}

/// Says on the receive queue that everything received before is completed.
///
/// # Errors
///
/// [`Status::NoResources`] if the completion queue is full, or may be: a fence
/// has no WQE of its own that the driver made room for.
pub(super) fn fence(
    ctx: &mut Context<'_, impl Platform>,
    queue: &ReceiveQueue,
) -> Result<(), Status> {
    let (id, platform) = (WqId::Rq(queue.rq), &mut *ctx.platform);
    let header = CqeHeader::of(CqeType::RxObjectFence);
    let words = RxCompletion::words(header, CompletionFlags::new(), 0);
    ctx.queues.complete(id, queue.cq, |wq, cq| {
        // An outstanding buffer has a CQE that the driver keeps free, and that
        // serves the fence: Linux waits for it before it sends another.
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

/// Takes the buffers back from the host; they are posted again when the
/// vport receives again.
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
    fn a_stretch_ends_where_something_else_is_to_be_said() {
        let (none, tcp) = (RxFlags::empty(), RxFlags::TCP);
        let stretch = |run: &Run<Buffer>, packets: &[RxPacket]| {
            let Stretch { count, bytes } = Stretch::of(run, &packets[0], packets);
            (count, bytes)
        };
        let units = Run::of_units(0, 2, Buffer::Posted);
        let of_two = |second: RxPacket| stretch(&units, &[packet(32, none, 0), second]);
        assert_eq!(of_two(packet(64, none, 0)), (2, 200));
        assert_eq!(of_two(packet(64, tcp, 0)), (1, 100));
        assert_eq!(of_two(packet(64, none, 1)), (1, 100));
        assert_eq!(of_two(packet(128, none, 0)), (1, 100), "another buffer");
        let two = [packet(32, none, 0), packet(64, none, 0)];
        assert_eq!(
            stretch(&Run::of_units(0, 1, Buffer::Posted), &two),
            (1, 100)
        );
        let long = Run::of_one(64, 128, Buffer::Posted);
        assert_eq!(stretch(&long, &[packet(128, tcp, 5)]), (1, 100));
        assert_eq!(stretch(&units, &[packet(64, none, 0)]), (0, 0));
    }
}
