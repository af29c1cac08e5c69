//! Transmit: from send queue entries to packets for the host, and from what
//! became of them to completions.

use super::objects::Work;
use super::{MANA_MEM_KEY, Nic, TX_VPORT_OFFSET, Vport};
use crate::cq::Completes;
use crate::hwc::Context;
use crate::platform::{
    Level, Offloads, Platform, Segment, TransmitResult, TxCompletion, TxPacket, TxStatus,
};
use crate::queues::Queues;
use crate::wire::oob::{CqeHeader, CqeType, LONG_FORMAT, SHORT_FORMAT, TxLongOob, TxShortOob};
use crate::wire::queue::{QueueType, WQE_UNIT};
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
        match check(fetched, entry, vport, object.wq, object.cq) {
            _ if skip => sent.outcome = Some(CqeType::TxGdmaError),
            Ok(checked) if was_handed_over(handed_over, &sent) => {
                sent.length = checked.length;
                sent.suppress = checked.suppress;
                sent.outcome = Some(CqeType::TxOkay);
            }
            Ok(checked) => {
                sent.length = checked.length;
                sent.suppress = checked.suppress;
                let segments = entry.sgl().iter().map(|s| Segment {
                    address: s.address,
                    length: s.size,
                });
                scratch.segments.extend(segments);
                scratch.packets.push(TxPacket {
                    id: sent.end,
                    ..checked.packet
                });
                #[cfg(feature = "faults")]
                crate::faults::meet(
                    ctx.platform,
                    (wq, caution),
                    (sent.position, sent.end),
                    &mut scratch.segments,
                );
            }
            Err(outcome) => sent.outcome = Some(outcome),
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
    in_flight.extend(&scratch.sent);
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

/// Checks a send queue entry, the copy that is also acted upon.
fn check(
    fetched: Fetched,
    entry: &Entry,
    vport: &Vport,
    sq: u32,
    cq: u32,
) -> Result<Checked, CqeType> {
    match fetched {
        Fetched::Entry => {}
        Fetched::Malformed => return Err(CqeType::TxInvalidOob),
        Fetched::Nothing | Fetched::Unreadable => return Err(CqeType::TxGdmaError),
    }
    let header = entry.header();
    let sgl = entry.sgl();
    let length: u64 = sgl.iter().map(|sge| u64::from(sge.size)).sum();
    let good = |sge: &crate::wire::queue::Sge| sge.size != 0 && sge.mem_key == MANA_MEM_KEY;
    if sgl.is_empty() || !sgl.iter().all(good) {
        return Err(CqeType::TxGdmaError);
    }
    let oob = TxShortOob::from_bits(entry.oob()[0]);
    let long = match oob.pkt_fmt() {
        SHORT_FORMAT => None,
        LONG_FORMAT => {
            let words = entry.oob();
            Some(TxLongOob::from_bits(
                *words.get(1).ok_or(CqeType::TxInvalidOob)?,
            ))
        }
        _ => return Err(CqeType::TxInvalidOob),
    };
    let queues_match = oob.vcq_num() == cq && oob.vsq_frame() == (sq >> 10 & 0x3fff) as u16;
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
    if !vport.tx_enabled {
        return Err(CqeType::TxVportDisabled);
    }
    let packet = offloads(entry, oob, long)?;
    let segmented = packet.offloads.contains(Offloads::TCP_SEGMENTATION);
    let frame = if segmented {
        u64::from(sgl[0].size) + u64::from(header.client_data_unit())
    } else {
        length
    };
    let longest = u64::from(vport.config.max_frame()) + VLAN_TAG;
    if frame > longest || length > MAX_LSO.max(longest) {
        return Err(CqeType::TxMtuDrop);
    }
    Ok(Checked {
        packet,
        length: length as u32,
        suppress: oob.suppress_txcqe_gen(),
    })
}

/// What the endpoint is asked to do to a packet.
fn offloads(entry: &Entry, oob: TxShortOob, long: Option<TxLongOob>) -> Result<TxPacket, CqeType> {
    let header = entry.header();
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
    let checksum = oob.comp_tcp_csum() || oob.comp_udp_csum();
    let both = |a: bool, b: bool| a && b;
    if both(oob.is_outer_ipv4(), oob.is_outer_ipv6())
        || both(oob.comp_tcp_csum(), oob.comp_udp_csum())
        || (checksum && !oob.is_outer_ipv4() && !oob.is_outer_ipv6())
    {
        return Err(CqeType::TxInvalidOob);
    }
    // Zero leaves it to the endpoint to find the header: Linux gives the
    // offset for TCP only (`mana_start_xmit`).
    if checksum && (1..ETHERNET_HEADER).contains(&oob.trans_off()) {
        return Err(CqeType::TxHdrProcessingError);
    }
    if header.client_oob_in_sgl() {
        // The headers are alone in the first SGE; the payload follows.
        if entry.sgl().len() < 2 || header.client_data_unit() == 0 || !oob.comp_tcp_csum() {
            return Err(CqeType::TxInvalidOob);
        }
        if entry.sgl()[0].size <= oob.trans_off().into() {
            return Err(CqeType::TxHdrProcessingError);
        }
    }
    let mut vlan_tci = 0;
    if let Some(long) = long.filter(|long| long.inject_vlan_pri_tag()) {
        wanted |= Offloads::INSERT_VLAN;
        vlan_tci = u16::from(long.pcp()) << 13 | u16::from(long.dei()) << 12 | long.vlan_id();
    }
    Ok(TxPacket {
        id: 0,
        segments: header.num_sge().into(),
        l4_offset: oob.trans_off(),
        segment_size: header.client_data_unit(),
        vlan_tci,
        offloads: wanted,
    })
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
    while let Some((packet, outcome)) = in_flight.front().and_then(|p| Some((*p, p.outcome?))) {
        in_flight.pop_front();
        count(vport, &packet, outcome);
        if outcome != CqeType::TxOkay && vport.faults.hit() {
            ctx.platform.log(
                Level::Warn,
                format_args!("vport {}: transmit failed: {outcome:?}", object.vport),
            );
        }
        let silent = packet.suppress && outcome == CqeType::TxOkay;
        complete(
            ctx.platform,
            ctx.queues,
            object.wq,
            object.cq,
            &packet,
            outcome,
            silent,
        );
    }
}

#[inline]
fn complete(
    platform: &mut impl Platform,
    queues: &mut Queues,
    sq: u32,
    cq: u32,
    packet: &InFlight,
    outcome: CqeType,
    silent: bool,
) {
    let Some(wq) = queues.sq(sq) else { return };
    wq.complete_to(packet.end);
    if silent {
        return;
    }
    let reused_below = wq.reused_below();
    let wqe_offset = (packet.position & (wq.ring.size() - 1)) / WQE_UNIT;
    let mut words = [0; 7];
    words[0] = CqeHeader::of(outcome).into_bits().into();
    words[1] = u64::from(wqe_offset << 5);
    let completes = Completes {
        wq: sq,
        is_sq: true,
        end: packet.end,
        reused_below,
    };
    queues.post_completion(platform, cq, &words, 0, completes);
}

fn count(vport: &mut Vport, packet: &InFlight, outcome: CqeType) {
    let stats = &mut vport.stats;
    match outcome {
        CqeType::TxMtuDrop => stats.tx_err_mtu_violation += 1,
        CqeType::TxInvalidOob | CqeType::TxHdrProcessingError => stats.tx_err_inval_oob += 1,
        CqeType::TxVportIdxOutOfRange => stats.tx_err_inval_vport_offset += 1,
        CqeType::TxVportDisabled => stats.tx_err_vport_disabled += 1,
        CqeType::TxGdmaError => stats.tx_err_gdma += 1,
        _ => {
            stats.tx_bytes += u64::from(packet.length);
            stats.tx_ucast_pkts += 1;
            stats.tx_ucast_bytes += u64::from(packet.length);
        }
    }
}
