//! What a send queue entry must fit, and what it asks for.

use super::super::batch::List;
use super::super::{MANA_MEM_KEY, TX_VPORT_OFFSET, Vport};
use super::{ETHERNET_HEADER, MAX_LSO, MAX_LSO_HEADERS, MAX_TAGS, MAX_TCP_HEADER, VLAN_TAG};
use crate::gdma::wq::{Entry, Fetched, Simple};
use device_kit::platform::{Offloads, Segment, TxPacket};
use mana_wire::oob::{CqeType, LONG_FORMAT, SHORT_FORMAT, TxLongOob, TxShortOob};
use mana_wire::queue::{Sge, WqeHeader};

/// What a send queue entry asks for, once it is known to make sense.
pub struct Checked {
    /// For the host.
    pub packet: TxPacket,
    /// Bytes of the packet.
    pub length: u32,
    /// No completion on success.
    pub suppress: bool,
}

/// What an entry must fit, the same for all of a queue.
pub struct Rules {
    cq: u32,
    vsq_frame: u16,
    tx_enabled: bool,
    /// Longest frame in bytes, with as many tags as it may have.
    longest: u32,
    /// The same, or 0 if none may be sent.
    longest_simple: u32,
    /// The bits of a short OOB that say where it comes from and goes to, and
    /// that it has a completion, as they are in a plain packet.
    route: u64,
}

/// The bits of a short OOB that [`Rules::route`] has.
const ROUTE: u64 = TxShortOob::new()
    .with_pkt_fmt(3)
    .with_vcq_num(0xff_ffff)
    .with_vsq_frame(0x3fff)
    .with_short_vp_offset(0xff)
    .with_suppress_txcqe_gen(true)
    .into_bits();
/// The bits of a short OOB that ask for something.
const WANTED: u64 = TxShortOob::new()
    .with_is_outer_ipv4(true)
    .with_is_outer_ipv6(true)
    .with_comp_iphdr_csum(true)
    .with_comp_tcp_csum(true)
    .with_comp_udp_csum(true)
    .into_bits();

impl Rules {
    /// For a queue of a vport.
    pub fn of(vport: &Vport, sq: u32, cq: u32) -> Self {
        let vsq_frame = (sq >> 10 & 0x3fff) as u16;
        let route = TxShortOob::new()
            .with_pkt_fmt(SHORT_FORMAT)
            .with_vcq_num(cq & 0xff_ffff)
            .with_vsq_frame(vsq_frame)
            .with_short_vp_offset(TX_VPORT_OFFSET as u8);
        let longest = u32::from(vport.max_frame()) + MAX_TAGS * VLAN_TAG;
        Self {
            cq,
            vsq_frame,
            tx_enabled: vport.tx_enabled,
            longest,
            longest_simple: if vport.tx_enabled { longest } else { 0 },
            route: route.into_bits(),
        }
    }

    /// Checks a send queue entry, the copy that is also acted upon, and adds
    /// its segments to `segments`, some of them even if it fails.
    ///
    /// # Errors
    ///
    /// What to complete it with.
    pub fn check(
        &self,
        fetched: Fetched,
        entry: &Entry,
        segments: &mut List<Segment>,
    ) -> Result<Checked, CqeType> {
        match fetched {
            Fetched::Entry => {}
            Fetched::Malformed => return Err(CqeType::TxInvalidOob),
            Fetched::Nothing | Fetched::Unreadable => return Err(CqeType::TxGdmaError),
        }
        let header = entry.header();
        let [first, rest @ ..] = entry.sgl() else {
            return Err(CqeType::TxGdmaError);
        };
        let mut length = gather(first, segments)?;
        for sge in rest {
            length += gather(sge, segments)?;
        }
        let (short, more) = entry.oob_words();
        let oob = TxShortOob::from_bits(short);
        let long = self.route(oob, more)?;
        if !self.tx_enabled {
            return Err(CqeType::TxVportDisabled);
        }
        let packet = TxPacket {
            id: entry.end,
            segments: header.sges() as u16,
            l4_offset: oob.trans_off(),
            segment_size: header.client_data_unit(),
            vlan_tci: long.map_or(0, vlan_tci),
            offloads: offloads(oob, long, header),
        };
        check_offloads(&packet, entry.sgl())?;
        let frame = if header.client_oob_in_sgl() {
            u64::from(first.size) + u64::from(packet.segment_size)
        } else {
            length
        };
        let inserted = if packet.offloads.contains(Offloads::INSERT_VLAN) {
            VLAN_TAG
        } else {
            0
        };
        let longest = u64::from(self.longest - inserted);
        if frame > longest || length > longest.max((MAX_LSO - inserted).into()) {
            return Err(CqeType::TxMtuDrop);
        }
        Ok(Checked {
            packet,
            length: length as u32,
            suppress: oob.suppress_txcqe_gen(),
        })
    }

    /// Checks an entry that ends at `end`. None if it is not simple, anything is
    /// wrong with it, or it is to have no completion.
    #[inline(always)]
    pub fn check_plain(&self, entry: &Simple, end: u32) -> Option<TxPacket> {
        let Simple { oob, sge, .. } = *entry;
        let length = sge.size;
        // One branch, not four.
        let good = entry.is_simple()
            & (oob & ROUTE == self.route)
            & (sge.mem_key == MANA_MEM_KEY)
            & (length.wrapping_sub(1) < self.longest_simple);
        if !good {
            return None;
        }
        let mut packet = TxPacket::plain(end, 1, Offloads::empty());
        if oob & WANTED != 0 {
            let oob = TxShortOob::from_bits(oob);
            packet.l4_offset = oob.trans_off();
            packet.offloads = offloads(oob, None, WqeHeader::new());
            check_offloads(&packet, &[]).ok()?;
        }
        Some(packet)
    }

    /// Checks where an entry comes from and goes to. Returns its long OOB, if
    /// it has one.
    fn route(&self, oob: TxShortOob, more: Option<u64>) -> Result<Option<TxLongOob>, CqeType> {
        let long = match oob.pkt_fmt() {
            SHORT_FORMAT => None,
            LONG_FORMAT => {
                let word = more.ok_or(CqeType::TxInvalidOob)?;
                Some(TxLongOob::from_bits(word))
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
        Ok(long)
    }
}

/// Adds an SGE to `segments`. Returns its length in bytes.
fn gather(sge: &Sge, segments: &mut List<Segment>) -> Result<u64, CqeType> {
    let segment = Segment {
        address: sge.address,
        length: sge.size,
    };
    if sge.size == 0 || sge.mem_key != MANA_MEM_KEY || !segments.push(segment) {
        return Err(CqeType::TxGdmaError);
    }
    Ok(sge.size.into())
}

/// What the endpoint is asked to do to a packet.
fn offloads(oob: TxShortOob, long: Option<TxLongOob>, header: WqeHeader) -> Offloads {
    let mut wanted = Offloads::empty();
    wanted.set(Offloads::IPV4, oob.is_outer_ipv4());
    wanted.set(Offloads::IPV6, oob.is_outer_ipv6());
    wanted.set(
        Offloads::IP_CHECKSUM,
        oob.comp_iphdr_csum() && oob.is_outer_ipv4(),
    );
    // Segments need checksums of their own, asked for or not: every driver that
    // we know asks for them but OpenVMM's in its tests.
    let large = header.client_oob_in_sgl();
    wanted.set(Offloads::TCP_CHECKSUM, oob.comp_tcp_csum() || large);
    wanted.set(Offloads::UDP_CHECKSUM, oob.comp_udp_csum());
    wanted.set(Offloads::TCP_SEGMENTATION, large);
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

/// Checks the SGEs of a large send. GDMA cuts it: it takes the first SGE for the
/// headers, and the entry is corrupt if that can't be so. Hardware then stops the
/// queue (OpenVMM's net_mana restarts it); here only the packet fails, as Linux,
/// which logs the completion and goes on, can't tell that its queue has stopped.
///
/// The device does not read packets, so how long the TCP header is, it does not
/// know, only how long it may be.
fn check_large_send(packet: &TxPacket, sgl: &[Sge]) -> Result<(), CqeType> {
    let [headers, _, ..] = sgl else {
        return Err(CqeType::TxGdmaError);
    };
    let longest = match packet.l4_offset {
        0 => MAX_LSO_HEADERS,
        offset => MAX_LSO_HEADERS.min(u32::from(offset) + MAX_TCP_HEADER),
    };
    if headers.size > longest {
        return Err(CqeType::TxGdmaError);
    }
    if headers.size <= packet.l4_offset.into() {
        return Err(CqeType::TxHdrProcessingError);
    }
    if packet.segment_size == 0 {
        return Err(CqeType::TxInvalidOob);
    }
    Ok(())
}

/// Checks that what is asked for goes together.
fn check_offloads(packet: &TxPacket, sgl: &[Sge]) -> Result<(), CqeType> {
    let wanted = packet.offloads;
    if wanted.is_empty() {
        return Ok(());
    }
    if wanted.contains(Offloads::TCP_SEGMENTATION) {
        check_large_send(packet, sgl)?;
    }
    // Without a family the endpoint finds it out: Linux names none where the
    // EtherType is that of a tag, as of 802.1ad (`mana_start_xmit`).
    let families = Offloads::IPV4 | Offloads::IPV6;
    let checksums = Offloads::TCP_CHECKSUM | Offloads::UDP_CHECKSUM;
    if wanted.contains(families) || wanted.contains(checksums) {
        return Err(CqeType::TxInvalidOob);
    }
    let checksum = wanted.intersects(checksums);
    // Zero leaves it to the endpoint to find the header: Linux gives the
    // offset for TCP only (`mana_start_xmit`).
    if checksum && (1..ETHERNET_HEADER).contains(&packet.l4_offset) {
        return Err(CqeType::TxHdrProcessingError);
    }
    Ok(())
}
