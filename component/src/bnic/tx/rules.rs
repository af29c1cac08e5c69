//! The rules for a send WQE, and what it asks for.
//!
//! The rules are masks and bounds that are tested together ([`Rules::accept`]), which
//! is quick. Only for a WQE that fails is the reason found out ([`Rules::why_not`]).

use device_kit::platform::{Offloads, TxPacket};
use mana_wire::oob::{CqeType, LONG_FORMAT, SHORT_FORMAT, TxLongOob, TxShortOob};
use mana_wire::queue::{Sge, WqeHeader};

use crate::bnic::port::Port;
use crate::gdma::ids::{CqId, SqId};
use crate::gdma::queue::wq::{Fetched, ShortWqe, Wqe};
use crate::gdma::resources::MEM_KEY;
use crate::limits::TX_VPORT_OFFSET;

const ETHERNET_HEADER: u16 = 14;
const VLAN_TAG: u32 = 4;
/// The most tags of a frame, including an inserted one: 802.1ad has two. Endpoints have
/// the same rule.
const MAX_TAGS: u32 = 2;
/// Longest packet that can be cut into segments: an IP packet and its header.
const MAX_LSO: u32 = 65535 + ETHERNET_HEADER as u32 + MAX_TAGS * VLAN_TAG;
/// Longest first SGE of a large send, which holds the headers.
const MAX_LSO_HEADERS: u32 = 256;
/// Longest TCP header.
const MAX_TCP_HEADER: u32 = 60;

/// The content of a send WQE.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Its first 8 bytes.
    pub header: WqeHeader,
    /// The short OOB.
    pub oob: u64,
    /// The 8 bytes after the short OOB, if the WQE has them.
    pub more: Option<u64>,
    /// Its SGEs, summed up.
    pub memory: Memory,
}

/// The SGEs of a send WQE, summed up.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Number of SGEs.
    segments: u16,
    /// Length of the first SGE in bytes.
    first: u32,
    /// Length of all in bytes.
    length: u64,
    /// Whether there is an SGE, and each has a length above 0 and the device's key.
    is_good: bool,
}

impl Memory {
    /// Sums up the SGEs.
    #[inline(always)]
    pub fn of(sgl: &[Sge]) -> Self {
        let mut length = 0u64;
        let mut is_good = !sgl.is_empty();
        for sge in sgl {
            is_good &= (sge.mem_key == MEM_KEY) & (sge.size != 0);
            length += u64::from(sge.size);
        }
        Self {
            segments: sgl.len() as u16,
            first: sgl.first().map_or(0, |sge| sge.size),
            length,
            is_good,
        }
    }
}

impl Ask {
    #[inline(always)]
    fn of(wqe: &Wqe, memory: Memory) -> Self {
        let (oob, more) = wqe.oob_words();
        Self {
            header: wqe.header(),
            oob,
            more,
            memory,
        }
    }
}

/// What a valid send WQE asks for.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The packet for the host.
    pub packet: TxPacket,
    /// Bytes of the packet.
    pub length: u32,
    /// Whether the completion is suppressed on success.
    pub suppress: bool,
}

/// The rules for the WQEs of a queue.
#[derive(Debug)]
pub struct Rules {
    tx_enabled: bool,
    /// Longest frame in bytes, including the most tags.
    longest: u32,
    /// The same, or 0 if the vport may not send.
    longest_enabled: u32,
    /// The required value of the [`ROUTE`] bits in the short format.
    route: u64,
}

/// The bits of a short OOB that identify its format, vport and queues: see
/// [`Rules::route`].
const ROUTE: u64 = QUEUES
    | TxShortOob::new()
        .with_pkt_fmt(3)
        .with_short_vp_offset(0xff)
        .into_bits();
/// The bits among them that identify the queues it comes from and reports to.
const QUEUES: u64 = TxShortOob::new()
    .with_vcq_num(0xff_ffff)
    .with_vsq_frame(0x3fff)
    .into_bits();
/// The bits of a short OOB that ask for offloads.
const WANTED: u64 = TxShortOob::new()
    .with_is_outer_ipv4(true)
    .with_is_outer_ipv6(true)
    .with_comp_iphdr_csum(true)
    .with_comp_tcp_csum(true)
    .with_comp_udp_csum(true)
    .into_bits();
/// The bit of a short OOB that suppresses the completion on success.
const SUPPRESS: u64 = TxShortOob::new().with_suppress_txcqe_gen(true).into_bits();

impl Rules {
    /// Returns the rules for a queue of a vport.
    pub fn of(port: &Port, sq: SqId, cq: CqId) -> Self {
        let route = TxShortOob::new()
            .with_pkt_fmt(SHORT_FORMAT)
            .with_vcq_num(cq.0 & 0xff_ffff)
            .with_vsq_frame((sq.0 >> 10 & 0x3fff) as u16)
            .with_short_vp_offset(TX_VPORT_OFFSET as u8);
        let longest = u32::from(port.max_frame()) + MAX_TAGS * VLAN_TAG;
        Self {
            tx_enabled: port.tx_enabled,
            longest,
            longest_enabled: if port.tx_enabled { longest } else { 0 },
            route: route.into_bits(),
        }
    }

    /// Accepts a fetched WQE: the copy that is also acted on.
    ///
    /// # Errors
    ///
    /// The type of the completion that reports why the WQE is not acceptable.
    pub fn accept_fetched(&self, fetched: Fetched, wqe: &Wqe) -> Result<Accepted, CqeType> {
        match fetched {
            Fetched::Wqe => {}
            Fetched::Malformed => return Err(CqeType::TxInvalidOob),
            Fetched::Nothing | Fetched::Unreadable | Fetched::Skipped => {
                return Err(CqeType::TxGdmaError);
            }
        }
        let ask = Ask::of(wqe, Memory::of(wqe.sgl()));
        self.accept(&ask, wqe.end).ok_or_else(|| self.why_not(&ask))
    }

    /// Returns whether a WQE is short, acceptable, and asks for no offload, as most
    /// are: all conditions in one test.
    #[inline(always)]
    pub fn accept_bare(&self, wqe: &ShortWqe) -> bool {
        wqe.is_short()
            & (wqe.oob & (ROUTE | SUPPRESS | WANTED) == self.route)
            & (wqe.sge.mem_key == MEM_KEY)
            & (wqe.sge.size.wrapping_sub(1) < self.longest_enabled)
    }

    /// Accepts a short WQE that ends at `end` and asks for offloads. Returns None if it
    /// is not short, not acceptable, or suppresses its completion.
    #[inline(never)]
    pub fn accept_short(&self, wqe: &ShortWqe, end: u32) -> Option<TxPacket> {
        if !wqe.is_short() | (wqe.oob & SUPPRESS != 0) {
            return None;
        }
        let ask = Ask {
            header: WqeHeader::SHORT,
            oob: wqe.oob,
            more: None,
            memory: Memory::of(&[wqe.sge]),
        };
        self.accept(&ask, end).map(|accepted| accepted.packet)
    }

    /// Accepts a copied WQE that is not short. Returns None if it is short, not acceptable,
    /// or suppresses its completion.
    #[inline(always)]
    pub fn accept_long(&self, wqe: &Wqe, memory: Memory) -> Option<Accepted> {
        let ask = Ask::of(wqe, memory);
        if ask.header.is_short() | (ask.oob & SUPPRESS != 0) {
            return None;
        }
        let is_bare = ask.oob & (ROUTE | WANTED) == self.route;
        if is_bare & ask.more.is_none() & !ask.header.client_oob_in_sgl() {
            return self.accept_plain(memory, wqe.end, false);
        }
        self.accept(&ask, wqe.end)
    }

    /// Accepts the content of a WQE that ends at `end`. Returns None if it is not
    /// acceptable.
    #[inline]
    fn accept(&self, ask: &Ask, end: u32) -> Option<Accepted> {
        let Memory {
            length, is_good, ..
        } = ask.memory;
        let long = ask.more.map(TxLongOob::from_bits);
        let long = long.filter(|_| TxShortOob::from_bits(ask.oob).pkt_fmt() == LONG_FORMAT);
        let is_routed = match long {
            None => ask.oob & ROUTE == self.route,
            Some(long) => {
                let queues = ask.oob & QUEUES == self.route & QUEUES;
                queues & !long.is_encap() & (vport_offset(ask.oob, long) == TX_VPORT_OFFSET)
            }
        };
        let is_large = ask.header.client_oob_in_sgl();
        let tag = long.is_some_and(|long| long.inject_vlan_pri_tag());
        let is_offloaded = (ask.oob & WANTED != 0) | is_large | tag;
        if !is_offloaded {
            let is_silent = ask.oob & SUPPRESS != 0;
            let accepted = self.accept_plain(ask.memory, end, is_silent);
            return accepted.filter(|_| is_routed);
        }
        let mut packet = TxPacket::with_offloads(end, ask.memory.segments, Offloads::empty());
        self.offload(ask, long, &mut packet);
        let is_fitting = self.tx_enabled && self.fits(ask, &packet, length);
        let is_possible = is_good & is_routed & is_fitting;
        (is_possible && check_offloads(&packet, ask.memory).is_ok()).then_some(Accepted {
            packet,
            length: length as u32,
            suppress: ask.oob & SUPPRESS != 0,
        })
    }

    /// Accepts a packet that asks for no offload, with all conditions in one test.
    #[inline(always)]
    fn accept_plain(&self, memory: Memory, end: u32, suppress: bool) -> Option<Accepted> {
        let is_fitting = memory.length.wrapping_sub(1) < u64::from(self.longest_enabled);
        (memory.is_good & is_fitting).then_some(Accepted {
            packet: TxPacket::with_offloads(end, memory.segments, Offloads::empty()),
            length: memory.length as u32,
            suppress,
        })
    }

    /// Finds out why a WQE is not acceptable.
    #[cold]
    fn why_not(&self, ask: &Ask) -> CqeType {
        let oob = TxShortOob::from_bits(ask.oob);
        if !ask.memory.is_good {
            return CqeType::TxGdmaError;
        }
        let long = ask.more.map(TxLongOob::from_bits);
        let long = match (oob.pkt_fmt(), long) {
            (SHORT_FORMAT, _) => None,
            (LONG_FORMAT, Some(long)) => Some(long),
            _ => return CqeType::TxInvalidOob,
        };
        let is_known = ask.oob & QUEUES == self.route & QUEUES;
        if !is_known || long.is_some_and(|long| long.is_encap()) {
            return CqeType::TxInvalidOob;
        }
        let short_offset = oob.short_vp_offset().into();
        if long.map_or(short_offset, |long| vport_offset(ask.oob, long)) != TX_VPORT_OFFSET {
            return CqeType::TxVportIdxOutOfRange;
        }
        if !self.tx_enabled {
            return CqeType::TxVportDisabled;
        }
        let mut packet = TxPacket::with_offloads(0, ask.memory.segments, Offloads::empty());
        self.offload(ask, long, &mut packet);
        // If its offloads are possible, it is too long.
        let checked = check_offloads(&packet, ask.memory);
        checked.err().unwrap_or(CqeType::TxMtuDrop)
    }

    /// Returns whether a packet, or each segment of a large send, is short enough.
    fn fits(&self, ask: &Ask, packet: &TxPacket, length: u64) -> bool {
        let frame = if ask.header.client_oob_in_sgl() {
            u64::from(ask.memory.first) + u64::from(packet.segment_size)
        } else {
            length
        };
        let inserted = if packet.offloads.contains(Offloads::INSERT_VLAN) {
            VLAN_TAG
        } else {
            0
        };
        let longest = u64::from(self.longest - inserted);
        frame <= longest && length <= longest.max((MAX_LSO - inserted).into())
    }

    /// Sets the offloads of a packet to those that its WQE asks for.
    #[inline(always)]
    fn offload(&self, ask: &Ask, long: Option<TxLongOob>, packet: &mut TxPacket) {
        let oob = TxShortOob::from_bits(ask.oob);
        packet.offloads = offloads(oob, long, ask.header);
        if !packet.offloads.is_empty() {
            packet.l4_offset = oob.trans_off();
        }
        if ask.header.client_oob_in_sgl() {
            packet.segment_size = ask.header.client_data_unit();
        }
        packet.vlan_tci = long.map_or(0, vlan_tci);
    }
}

/// Returns the vport offset that a WQE in the long format has. A driver that
/// needs no long offset leaves the short one in place.
fn vport_offset(oob: u64, long: TxLongOob) -> u16 {
    match long.long_vp_offset() {
        0 => TxShortOob::from_bits(oob).short_vp_offset().into(),
        offset => offset,
    }
}

/// Returns the offloads that the endpoint is asked for.
#[inline(always)]
fn offloads(oob: TxShortOob, long: Option<TxLongOob>, header: WqeHeader) -> Offloads {
    let mut wanted = Offloads::empty();
    wanted.set(Offloads::IPV4, oob.is_outer_ipv4());
    wanted.set(Offloads::IPV6, oob.is_outer_ipv6());
    wanted.set(
        Offloads::IP_CHECKSUM,
        oob.comp_iphdr_csum() && oob.is_outer_ipv4(),
    );
    // Segments need checksums of their own, asked for or not: every known driver asks
    // for them, except OpenVMM's in its tests.
    let is_large = header.client_oob_in_sgl();
    wanted.set(Offloads::TCP_CHECKSUM, oob.comp_tcp_csum() || is_large);
    wanted.set(Offloads::UDP_CHECKSUM, oob.comp_udp_csum());
    wanted.set(Offloads::TCP_SEGMENTATION, is_large);
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

/// Checks the SGEs of a large send. GDMA segments it with the first SGE as the headers,
/// and the WQE is corrupt if that is impossible. Hardware then stops the queue
/// (OpenVMM's net_mana restarts it); here only the packet fails, because Linux, which
/// logs the completion and continues, does not notice that its queue has stopped.
///
/// The device does not read packets, so it knows the longest possible TCP header, not
/// the actual one.
fn check_large_send(packet: &TxPacket, memory: Memory) -> Result<(), CqeType> {
    let headers = memory.first;
    if memory.segments < 2 {
        return Err(CqeType::TxGdmaError);
    }
    let longest = match packet.l4_offset {
        0 => MAX_LSO_HEADERS,
        offset => MAX_LSO_HEADERS.min(u32::from(offset) + MAX_TCP_HEADER),
    };
    if headers > longest {
        return Err(CqeType::TxGdmaError);
    }
    if headers <= packet.l4_offset.into() {
        return Err(CqeType::TxHdrProcessingError);
    }
    if packet.segment_size == 0 {
        return Err(CqeType::TxInvalidOob);
    }
    Ok(())
}

/// Checks that the offloads are compatible.
#[inline(always)]
fn check_offloads(packet: &TxPacket, memory: Memory) -> Result<(), CqeType> {
    let wanted = packet.offloads;
    if wanted.contains(Offloads::TCP_SEGMENTATION) {
        check_large_send(packet, memory)?;
    }
    // Without a family the endpoint determines it: Linux gives none where the EtherType
    // is that of a tag, as with 802.1ad (`mana_start_xmit`).
    let families = Offloads::IPV4 | Offloads::IPV6;
    let checksums = Offloads::TCP_CHECKSUM | Offloads::UDP_CHECKSUM;
    if wanted.contains(families) || wanted.contains(checksums) {
        return Err(CqeType::TxInvalidOob);
    }
    // With zero the endpoint finds the header: Linux gives the offset for TCP only
    // (`mana_start_xmit`).
    let has_checksum = wanted.intersects(checksums);
    if has_checksum && (1..ETHERNET_HEADER).contains(&packet.l4_offset) {
        return Err(CqeType::TxHdrProcessingError);
    }
    Ok(())
}
