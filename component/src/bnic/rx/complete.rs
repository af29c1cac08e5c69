//! From packets to the completions of the buffers that hold them.

use device_kit::platform::{Level, Platform, RxFlags, RxPacket};
use mana_wire::oob::{CqeHeader, CqeType, MOST_PACKETS, RxCompletionFlags, RxCompletionOob, hash};

use super::queue::{Buffer, ReceiveQueue};
use crate::bnic::ledger::Run;
use crate::bnic::port::Port;
use crate::gdma::Context;
use crate::gdma::ids::WqId;
use crate::gdma::journal::Record;
use crate::gdma::queue::cq::{Completion, Cq};
use crate::gdma::queue::wq::Wq;

/// The flags of a packet that was not received.
const LOST: RxFlags = RxFlags::TRUNCATED.union(RxFlags::MEMORY_FAULT);

/// Completes buffers from the front on: those of `packets`, and those that are
/// malformed.
pub fn complete<P: Platform>(
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
            completer.post_received(platform, front.size, port.steering.coalesces, alike);
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
    /// Completes buffers of WQEs of this size, whose packets differ only in length and
    /// hash: one by one, or as many in a completion as fit.
    #[inline]
    fn post_received(
        &mut self,
        platform: &mut impl Platform,
        size: u32,
        coalesces: bool,
        packets: &[RxPacket],
    ) {
        let [first, ..] = packets else { return };
        if coalesces && packets.len() > 1 && can_share(packets) {
            self.post_together(platform, size, first, packets);
        } else {
            self.post(platform, size, first, packets);
        }
    }

    /// Completes packets four at a time, and then the rest.
    #[inline(never)]
    fn post_together(
        &mut self,
        platform: &mut impl Platform,
        size: u32,
        first: &RxPacket,
        packets: &[RxPacket],
    ) {
        let (mask, flags) = (self.wq.mask(), completion_flags(first));
        let together = |cqe_type, packets: &[RxPacket]| {
            let each = packets.iter();
            let each = each.map(|packet| (packet.length as u16, packet.hash));
            let [first, .., last] = packets else {
                unreachable!("packets that share a completion");
            };
            Completion {
                words: RxCompletionOob::words_of_many(CqeHeader::of(cqe_type), flags, each),
                rest: first.id.wrapping_sub(size) & mask,
                record: Record::completed(last.id),
            }
        };
        let (fours, rest) = packets.as_chunks::<MOST_PACKETS>();
        let of_four = |four: &[RxPacket; MOST_PACKETS]| together(CqeType::RxCoalesced4, four);
        self.cq.post(platform, self.id, fours, of_four);
        match rest {
            [] => {}
            [one] => return self.post(platform, size, one, rest),
            _ => {
                let of_some = |some: &&[RxPacket]| together(CqeType::RxCoalesced4, some);
                self.cq.post(platform, self.id, &[rest], of_some);
            }
        }
        self.pass(packets);
    }

    /// Completes buffers of WQEs of this size, whose packets differ from `first` only
    /// in length.
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
        let [first, second] = RxCompletionOob::first_words(CqeHeader::of(cqe_type), flags, 0);
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
        self.pass(packets);
    }

    /// Removes the WQEs of completed buffers from the ledger.
    #[inline]
    fn pass(&mut self, packets: &[RxPacket]) {
        if let Some(last) = packets.last() {
            self.wq.complete_to(last.id);
        }
    }

    /// Completes the first of a run of malformed buffers.
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

/// Returns whether packets can share a completion. A length of 0 ends a completion's
/// list, and packets that were not received are reported one by one.
fn can_share(packets: &[RxPacket]) -> bool {
    let is_whole = |packet: &RxPacket| {
        let is_lost = packet.flags.intersects(LOST);
        packet.length as u16 != 0 && !is_lost
    };
    packets.iter().all(is_whole)
}

/// Consecutive packets that differ only in length and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    count: usize,
    bytes: u64,
}

impl Stretch {
    /// Returns the stretch at the front, beginning with `first`, that was received into
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

/// Returns the flags of a packet's completion.
#[inline(never)]
fn completion_flags(packet: &RxPacket) -> RxCompletionFlags {
    let flags = packet.flags;
    let is_tagged = flags.contains(RxFlags::VLAN);
    let good = flags.contains(RxFlags::L4_CHECKSUM_GOOD);
    let bad = flags.contains(RxFlags::L4_CHECKSUM_BAD);
    let (tcp, udp) = (flags.contains(RxFlags::TCP), flags.contains(RxFlags::UDP));
    RxCompletionFlags::new()
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

/// Returns the hash type of a packet, 0 if it has no hash.
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
    fn a_stretch_ends_where_flags_tag_or_buffer_differ() {
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
