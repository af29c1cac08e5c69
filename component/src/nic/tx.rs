//! Transmit: from send queue entries to packets for the host, and from what
//! became of them to completions.

use alloc::vec::Vec;

use super::objects::Work;
use super::{MANA_MEM_KEY, Nic, TX_VPORT_OFFSET, Vport};
use crate::cq::Completes;
use crate::hwc::Context;
use crate::platform::{
    Level, Offloads, Platform, Segment, TransmitResult, TxCompletion, TxPacket, TxStatus,
};
use crate::queues::Queues;
use crate::wire::oob::{CqeHeader, CqeType, LONG_FORMAT, SHORT_FORMAT, TxLongOob, TxShortOob};
use crate::wire::queue::{QueueType, Sge, WQE_UNIT, WqeHeader};
use crate::wq::{Entry, Fetched};

/// Packets handed over in one call.
const BATCH: usize = 64;
/// Packets taken from a queue before other work gets a turn.
const BUDGET: usize = 512;
/// Longest packet that can be cut into segments: an IP packet and its header.
const MAX_LSO: u64 = 65535 + 18;
const ETHERNET_HEADER: u16 = 14;
const VLAN_TAG: u64 = 4;

/// A transmit that was taken from the send queue and not yet completed.
#[derive(Clone, Copy, Debug)]
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

/// Works on a send queue. Returns true if more is posted.
pub fn process(ctx: &mut Context<'_, impl Platform>, key: usize) -> bool {
    for _ in 0..BUDGET / BATCH {
        let most = batch(ctx.queues);
        if process_batch(ctx, key, most) != Some(most) {
            return false;
        }
    }
    true
}

/// Packets to take at a time.
fn batch(queues: &Queues) -> usize {
    if queues.caution.is_on() { 1 } else { BATCH }
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
    let scratch = &mut nic.scratch;
    let rules = Rules::of(vport, object.wq, object.cq);
    scratch.packets.clear();
    scratch.segments.clear();
    scratch.sent.clear();
    while scratch.sent.len() < most {
        let skip =
            caution.is_on() && caution.attempt_next(ctx.platform, QueueType::Sq, object.wq, wq);
        let fetched = wq.fetch(ctx.platform, &mut scratch.entry);
        if fetched == Fetched::Nothing {
            break;
        }
        let entry = &scratch.entry;
        let mut sent = InFlight {
            position: entry.position,
            end: entry.end,
            length: 0,
            suppress: false,
            outcome: None,
        };
        let first = scratch.segments.len();
        match rules.check(fetched, entry, &mut scratch.segments) {
            _ if skip => sent.outcome = Some(CqeType::TxGdmaError),
            Ok(checked) => {
                sent.length = checked.length;
                sent.suppress = checked.suppress;
                if was_handed_over(handed_over, &sent) {
                    sent.outcome = Some(CqeType::TxOkay);
                } else {
                    scratch.packets.push(checked.packet);
                    #[cfg(feature = "faults")]
                    crate::faults::meet(
                        ctx.platform,
                        (wq, caution),
                        (sent.position, sent.end),
                        &mut scratch.segments,
                    );
                }
            }
            Err(outcome) => sent.outcome = Some(outcome),
        }
        if sent.outcome.is_some() {
            scratch.segments.truncate(first);
        }
        scratch.sent.push(sent);
    }
    let taken = scratch.sent.len();
    if taken == 0 {
        return Some(0);
    }
    let mut result = TransmitResult::default();
    if !scratch.packets.is_empty() {
        let port = object.vport as u32;
        result = ctx
            .platform
            .transmit(port, object.queue, &scratch.packets, &scratch.segments);
    }
    apply(&mut scratch.sent, &result);
    count_destinations(vport, &result);
    // Completions come in order: behind those that wait, these wait too.
    let done = match in_flight.is_empty() {
        true => decided(scratch.sent.iter()),
        false => 0,
    };
    let (now, later) = scratch.sent.split_at(done);
    in_flight.extend(later);
    let place = (object.vport, object.wq, object.cq);
    complete(ctx.platform, ctx.queues, vport, place, now.iter().copied());
    complete_front(ctx, key);
    Some(taken)
}

/// Whether a packet went out already before a failure; forgets about that
/// with the first that did not.
fn was_handed_over(handed_over: &mut Option<u32>, packet: &InFlight) -> bool {
    let ahead = |last: u32| last.wrapping_sub(packet.end) < 1 << 31;
    *handed_over = handed_over.filter(|last| ahead(*last));
    handed_over.is_some()
}

/// What a send queue entry asks for, once it is known to make sense.
struct Checked {
    packet: TxPacket,
    length: u32,
    suppress: bool,
}

/// What an entry must fit, the same for all of a queue.
struct Rules {
    cq: u32,
    vsq_frame: u16,
    tx_enabled: bool,
    /// Longest frame in bytes.
    longest: u64,
}

impl Rules {
    fn of(vport: &Vport, sq: u32, cq: u32) -> Self {
        Self {
            cq,
            vsq_frame: (sq >> 10 & 0x3fff) as u16,
            tx_enabled: vport.tx_enabled,
            longest: u64::from(vport.config.max_frame()) + VLAN_TAG,
        }
    }

    /// Checks a send queue entry, the copy that is also acted upon, and adds
    /// its segments to `segments`, some of them even if it fails.
    #[inline]
    fn check(
        &self,
        fetched: Fetched,
        entry: &Entry,
        segments: &mut Vec<Segment>,
    ) -> Result<Checked, CqeType> {
        match fetched {
            Fetched::Entry => {}
            Fetched::Malformed => return Err(CqeType::TxInvalidOob),
            Fetched::Nothing | Fetched::Unreadable => return Err(CqeType::TxGdmaError),
        }
        let header = entry.header();
        let sgl = entry.sgl();
        let first = sgl.first().ok_or(CqeType::TxGdmaError)?;
        let mut length = 0;
        for sge in sgl {
            if sge.size == 0 || sge.mem_key != MANA_MEM_KEY {
                return Err(CqeType::TxGdmaError);
            }
            length += u64::from(sge.size);
            segments.push(Segment {
                address: sge.address,
                length: sge.size,
            });
        }
        let words = entry.oob();
        let oob = TxShortOob::from_bits(words[0]);
        let long = match oob.pkt_fmt() {
            SHORT_FORMAT => None,
            LONG_FORMAT => {
                let word = words.get(1).ok_or(CqeType::TxInvalidOob)?;
                Some(TxLongOob::from_bits(*word))
            }
            _ => return Err(CqeType::TxInvalidOob),
        };
        let queues_match = oob.vcq_num() == self.cq && oob.vsq_frame() == self.vsq_frame;
        if !queues_match || long.is_some_and(|long| long.is_encap()) {
            return Err(CqeType::TxInvalidOob);
        }
        let offset = match long {
            // A driver that needs no long offset leaves the short one in place.
            Some(long) if long.long_vp_offset() != 0 => long.long_vp_offset(),
            _ => oob.short_vp_offset().into(),
        };
        if offset != TX_VPORT_OFFSET {
            return Err(CqeType::TxVportIdxOutOfRange);
        }
        if !self.tx_enabled {
            return Err(CqeType::TxVportDisabled);
        }
        let packet = TxPacket {
            id: entry.end,
            segments: header.num_sge().into(),
            l4_offset: oob.trans_off(),
            segment_size: header.client_data_unit(),
            vlan_tci: long.map_or(0, vlan_tci),
            offloads: offloads(oob, long, header),
        };
        check_offloads(&packet, sgl)?;
        let frame = if header.client_oob_in_sgl() {
            u64::from(first.size) + u64::from(header.client_data_unit())
        } else {
            length
        };
        if frame > self.longest || length > MAX_LSO.max(self.longest) {
            return Err(CqeType::TxMtuDrop);
        }
        Ok(Checked {
            packet,
            length: length as u32,
            suppress: oob.suppress_txcqe_gen(),
        })
    }
}

/// What the endpoint is asked to do to a packet.
#[inline]
fn offloads(oob: TxShortOob, long: Option<TxLongOob>, header: WqeHeader) -> Offloads {
    let mut wanted = Offloads::empty();
    wanted.set(Offloads::IPV4, oob.is_outer_ipv4());
    wanted.set(Offloads::IPV6, oob.is_outer_ipv6());
    wanted.set(
        Offloads::IP_CHECKSUM,
        oob.comp_iphdr_csum() && oob.is_outer_ipv4(),
    );
    wanted.set(Offloads::TCP_CHECKSUM, oob.comp_tcp_csum());
    wanted.set(Offloads::UDP_CHECKSUM, oob.comp_udp_csum());
    wanted.set(Offloads::TCP_SEGMENTATION, header.client_oob_in_sgl());
    let tag = long.is_some_and(|long| long.inject_vlan_pri_tag());
    wanted.set(Offloads::INSERT_VLAN, tag);
    wanted
}

fn vlan_tci(long: TxLongOob) -> u16 {
    if !long.inject_vlan_pri_tag() {
        return 0;
    }
    u16::from(long.pcp()) << 13 | u16::from(long.dei()) << 12 | long.vlan_id()
}

/// Checks that what is asked for goes together.
#[inline]
fn check_offloads(packet: &TxPacket, sgl: &[Sge]) -> Result<(), CqeType> {
    let wanted = packet.offloads;
    if wanted.is_empty() {
        return Ok(());
    }
    let families = Offloads::IPV4 | Offloads::IPV6;
    let checksums = Offloads::TCP_CHECKSUM | Offloads::UDP_CHECKSUM;
    let checksum = wanted.intersects(checksums);
    if wanted.contains(families)
        || wanted.contains(checksums)
        || (checksum && !wanted.intersects(families))
    {
        return Err(CqeType::TxInvalidOob);
    }
    // Zero leaves it to the endpoint to find the header: Linux gives the
    // offset for TCP only (`mana_start_xmit`).
    if checksum && (1..ETHERNET_HEADER).contains(&packet.l4_offset) {
        return Err(CqeType::TxHdrProcessingError);
    }
    if wanted.contains(Offloads::TCP_SEGMENTATION) {
        // The headers are alone in the first SGE; the payload follows.
        let [headers, _, ..] = sgl else {
            return Err(CqeType::TxInvalidOob);
        };
        if packet.segment_size == 0 || !wanted.contains(Offloads::TCP_CHECKSUM) {
            return Err(CqeType::TxInvalidOob);
        }
        if headers.size <= packet.l4_offset.into() {
            return Err(CqeType::TxHdrProcessingError);
        }
    }
    Ok(())
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
    let packets = in_flight.drain(..done);
    complete(ctx.platform, ctx.queues, vport, place, packets);
}

/// Completes packets that have an outcome.
#[inline]
fn complete<P: Platform>(
    platform: &mut P,
    queues: &mut Queues,
    vport: &mut Vport,
    (index, sq, cq): (usize, u32, u32),
    packets: impl Iterator<Item = InFlight>,
) {
    queues.complete_sends(sq, cq, |wq, cq| {
        let reused_below = wq.reused_below();
        let mask = wq.ring.size() - 1;
        for packet in packets {
            let Some(outcome) = packet.outcome else {
                continue;
            };
            wq.complete_to(packet.end);
            if outcome == CqeType::TxOkay {
                count(vport, packet.length);
                if packet.suppress {
                    continue;
                }
            } else {
                count_failure(platform, vport, index, outcome);
            }
            let wqe_offset = (packet.position & mask) / WQE_UNIT;
            let mut words = [0; 7];
            words[0] = CqeHeader::of(outcome).into_bits().into();
            words[1] = u64::from(wqe_offset << 5);
            let completes = Completes {
                wq: sq,
                is_sq: true,
                end: packet.end,
                reused_below,
                note: 0,
            };
            cq.post(platform, &mut words, 0, completes);
        }
    });
}

#[inline]
fn count(vport: &mut Vport, length: u32) {
    let stats = &mut vport.stats;
    stats.tx_bytes += u64::from(length);
    stats.tx_ucast_pkts += 1;
    stats.tx_ucast_bytes += u64::from(length);
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
