//! The offloads that a transmit asks the endpoint for.

use device_kit::platform::Offloads;
use mana_wire::oob::{CqeType, TxLongOob, TxShortOob};
use mana_wire::queue::Sge;

use crate::bench::Transmitted;
use crate::driver::Driver;
use crate::driver::nic::Vport;
use crate::driver::traffic::{frame, long, short};
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check_eq};

super::declare! { "tx_offloads":
    nothing_is_asked_for_without_flags = "mana_en.c: mana_start_xmit, CHECKSUM_PARTIAL",
    nothing_goes_along_that_no_offload_needs = "WIT: tx-packet.l4-offset, tx-packet.segment-size",
    tcp_checksum_over_ipv4 = "mana_en.c: mana_start_xmit, comp_tcp_csum",
    tcp_checksum_over_ipv6 = "mana_en.c: mana_start_xmit, comp_tcp_csum",
    udp_checksum_over_ipv4 = "mana_en.c: mana_start_xmit, comp_udp_csum",
    udp_checksum_over_ipv6 = "mana_en.c: mana_start_xmit, comp_udp_csum",
    udp_checksum_without_an_offset = "mana_en.c: mana_start_xmit (sets trans_off for TCP only)",
    ip_checksum = "mana_en.c: mana_start_xmit, comp_iphdr_csum",
    ipv6_has_no_ip_checksum = "mana.h: struct mana_tx_short_oob, comp_iphdr_csum",
    refuses_both_ip_versions = "mana.h: CQE_TX_INVALID_OOB",
    refuses_both_checksums = "mana.h: CQE_TX_INVALID_OOB",
    a_checksum_without_a_family = "mana_en.c: mana_start_xmit (neither flag where the EtherType is 802.1ad's)",
    refuses_a_transport_header_inside_the_first = "mana.h: CQE_TX_HDR_PROCESSING_ERROR",
    passes_the_largest_offset = "mana.h: struct mana_tx_short_oob, trans_off",
    inserts_a_tag = "mana_en.c: mana_start_xmit, inject_vlan_pri_tag",
    inserts_every_bit_of_a_tag = "mana.h: struct mana_tx_long_oob, pcp, dei, vlan_id",
    inserts_no_tag_unless_asked = "mana.h: struct mana_tx_long_oob, inject_vlan_pri_tag",
    inserts_no_tag_from_a_short_oob = "mana.h: MANA_SHORT_PKT_FMT",
    cuts_into_segments = "gdma_main.c: mana_gd_write_client_oob, client_oob_in_sgl",
    cuts_the_longest_packet = "mana_en.c: mana_probe_port, GSO_MAX_SIZE",
    cuts_with_a_tag = "mana_en.c: mana_start_xmit",
    cuts_ipv6 = "mana_en.c: mana_start_xmit, is_outer_ipv6",
    cuts_without_a_family = "mana_en.c: mana_start_xmit (neither flag where the EtherType is 802.1ad's)",
    cuts_without_being_asked_for_checksums = "openvmm net_mana: tests, LSO without comp_tcp_csum",
    cuts_behind_headers_of_256_bytes = "openvmm net_mana: handle_tx, LSO (should not exceed 256 bytes)",
    cuts_behind_the_longest_tcp_header = "openvmm net_mana: handle_tx, LSO (only the header)",
    refuses_to_cut_headers_alone = "openvmm gdma: process_sqe, LSO with one SGE is CQE_TX_GDMA_ERR",
    refuses_headers_of_more_than_256_bytes = "openvmm gdma: process_sqe, LSO with SGE[0] > 256 bytes is CQE_TX_GDMA_ERR",
    refuses_more_than_headers_in_the_first_piece = "openvmm net_mana: handle_tx, LSO (only the header), or GDMA error",
    refuses_to_cut_into_nothing = "gdma.h: struct gdma_wqe, client_data_unit",
    refuses_to_cut_udp = "mana.h: CQE_TX_INVALID_OOB",
    refuses_headers_that_end_before_tcp = "mana.h: CQE_TX_HDR_PROCESSING_ERROR",
    refuses_segments_that_do_not_fit = "mana.h: CQE_TX_MTU_DROP",
    refuses_tagged_segments_that_do_not_fit = "mana.h: CQE_TX_MTU_DROP",
    refuses_to_cut_more_than_an_ip_packet = "mana.h: CQE_TX_MTU_DROP",
    refuses_to_tag_and_cut_more_than_an_ip_packet = "mana.h: CQE_TX_MTU_DROP",
}

/// Sends a frame of 100 bytes with this OOB.
fn send(
    driver: &mut Driver<'_>,
    vport: &mut Vport,
    oob: impl FnOnce(TxShortOob) -> TxShortOob,
) -> Outcome<Transmitted> {
    let address = driver.place(&frame(100))?;
    let wqe = Wqe::new(&short(oob(vport.oob())), &[sge(address, 100)]);
    vport.send_wqe(driver, &wqe)
}

/// Checks that an OOB asks for these offloads, with the transport header at an offset.
fn asks(
    driver: &mut Driver<'_>,
    oob: impl FnOnce(TxShortOob) -> TxShortOob,
    expected: Offloads,
    offset: u16,
) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let sent = send(driver, &mut vport, oob)?;
    check_eq("offloads", sent.offloads, expected)?;
    check_eq("offset of the transport header", sent.l4_offset, offset)?;
    check_eq("tag", sent.vlan_tci, 0)
}

fn nothing_is_asked_for_without_flags(driver: &mut Driver<'_>) -> Outcome {
    asks(driver, |oob| oob, Offloads::empty(), 0)
}

/// Fields of a WQE that its offloads do not use are not passed on, whatever its layout.
fn nothing_goes_along_that_no_offload_needs(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(100))?;
    let oob = vport.oob().with_trans_off(34);
    let long = long(oob, TxLongOob::new());
    let (one, two) = (
        [sge(address, 100)],
        [sge(address, 50), sge(address + 50, 50)],
    );
    let wqes = [
        Wqe::new(&short(oob), &one),
        Wqe::new(&short(oob), &two),
        Wqe::new(&short(oob.with_comp_iphdr_csum(true)), &one),
        Wqe::new(&long, &one),
    ];
    for mut wqe in wqes {
        wqe.header.set_client_data_unit(1448);
        let sent = vport.send_wqe(driver, &wqe)?;
        check_eq("offloads", sent.offloads, Offloads::empty())?;
        check_eq("offset of the transport header", sent.l4_offset, 0)?;
        check_eq("segment size", sent.segment_size, 0)?;
    }
    Ok(())
}

fn tcp_checksum_over_ipv4(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv4(true).with_comp_tcp_csum(true);
    let expected = Offloads::IPV4 | Offloads::TCP_CHECKSUM;
    asks(driver, |o| oob(o).with_trans_off(34), expected, 34)
}

fn tcp_checksum_over_ipv6(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv6(true).with_comp_tcp_csum(true);
    let expected = Offloads::IPV6 | Offloads::TCP_CHECKSUM;
    asks(driver, |o| oob(o).with_trans_off(54), expected, 54)
}

fn udp_checksum_over_ipv4(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv4(true).with_comp_udp_csum(true);
    let expected = Offloads::IPV4 | Offloads::UDP_CHECKSUM;
    asks(driver, |o| oob(o).with_trans_off(34), expected, 34)
}

fn udp_checksum_over_ipv6(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv6(true).with_comp_udp_csum(true);
    let expected = Offloads::IPV6 | Offloads::UDP_CHECKSUM;
    asks(driver, |o| oob(o).with_trans_off(54), expected, 54)
}

fn udp_checksum_without_an_offset(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv4(true).with_comp_udp_csum(true);
    let expected = Offloads::IPV4 | Offloads::UDP_CHECKSUM;
    asks(driver, oob, expected, 0)
}

fn ip_checksum(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv4(true).with_comp_iphdr_csum(true);
    asks(driver, oob, Offloads::IPV4 | Offloads::IP_CHECKSUM, 0)
}

fn ipv6_has_no_ip_checksum(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv6(true).with_comp_iphdr_csum(true);
    asks(driver, oob, Offloads::IPV6, 0)
}

fn refuses(
    driver: &mut Driver<'_>,
    oob: impl FnOnce(TxShortOob) -> TxShortOob,
    how: CqeType,
) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(100))?;
    let wqe = Wqe::new(&short(oob(vport.oob())), &[sge(address, 100)]);
    vport.fail(driver, &wqe, how)?;
    vport.works(driver)
}

fn refuses_both_ip_versions(driver: &mut Driver<'_>) -> Outcome {
    let oob = |oob: TxShortOob| oob.with_is_outer_ipv4(true).with_is_outer_ipv6(true);
    refuses(driver, oob, CqeType::TxInvalidOob)
}

fn refuses_both_checksums(driver: &mut Driver<'_>) -> Outcome {
    let both = |oob: TxShortOob| oob.with_comp_tcp_csum(true).with_comp_udp_csum(true);
    let oob = |oob| both(oob).with_is_outer_ipv4(true).with_trans_off(34);
    refuses(driver, oob, CqeType::TxInvalidOob)
}

fn a_checksum_without_a_family(driver: &mut Driver<'_>) -> Outcome {
    let tcp = |oob: TxShortOob| oob.with_comp_tcp_csum(true).with_trans_off(38);
    asks(driver, tcp, Offloads::TCP_CHECKSUM, 38)?;
    driver.bench.reset();
    let udp = |oob: TxShortOob| oob.with_comp_udp_csum(true);
    asks(driver, udp, Offloads::UDP_CHECKSUM, 0)
}

fn refuses_a_transport_header_inside_the_first(driver: &mut Driver<'_>) -> Outcome {
    let tcp = |oob: TxShortOob| oob.with_comp_tcp_csum(true).with_is_outer_ipv4(true);
    let oob = |oob| tcp(oob).with_trans_off(13);
    refuses(driver, oob, CqeType::TxHdrProcessingError)
}

fn passes_the_largest_offset(driver: &mut Driver<'_>) -> Outcome {
    let tcp = |oob: TxShortOob| oob.with_comp_tcp_csum(true).with_is_outer_ipv6(true);
    let expected = Offloads::IPV6 | Offloads::TCP_CHECKSUM;
    asks(driver, |oob| tcp(oob).with_trans_off(1023), expected, 1023)
}

fn tagged(driver: &mut Driver<'_>, behind: TxLongOob) -> Outcome<Transmitted> {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(100))?;
    let wqe = Wqe::new(&long(vport.oob(), behind), &[sge(address, 100)]);
    let sent = vport.send_wqe(driver, &wqe)?;
    check_eq("frame at the port", &sent.frame[..], &frame(100)[..])?;
    Ok(sent)
}

fn inserts_a_tag(driver: &mut Driver<'_>) -> Outcome {
    let behind = TxLongOob::new()
        .with_inject_vlan_pri_tag(true)
        .with_vlan_id(100);
    let sent = tagged(driver, behind)?;
    check_eq("offloads", sent.offloads, Offloads::INSERT_VLAN)?;
    check_eq("tag", sent.vlan_tci, 100)
}

fn inserts_every_bit_of_a_tag(driver: &mut Driver<'_>) -> Outcome {
    let behind = TxLongOob::new()
        .with_inject_vlan_pri_tag(true)
        .with_pcp(5)
        .with_dei(true)
        .with_vlan_id(0xabc);
    check_eq(
        "tag",
        tagged(driver, behind)?.vlan_tci,
        0b1011 << 12 | 0xabc,
    )
}

fn inserts_no_tag_unless_asked(driver: &mut Driver<'_>) -> Outcome {
    let behind = TxLongOob::new().with_pcp(7).with_vlan_id(0xfff);
    let sent = tagged(driver, behind)?;
    check_eq("offloads", sent.offloads, Offloads::empty())?;
    check_eq("tag", sent.vlan_tci, 0)
}

fn inserts_no_tag_from_a_short_oob(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let address = driver.place(&frame(100))?;
    let behind = TxLongOob::new()
        .with_inject_vlan_pri_tag(true)
        .with_vlan_id(5);
    let mut oob = long(vport.oob(), behind);
    oob[..8].copy_from_slice(&short(vport.oob()));
    let sent = vport.send_wqe(driver, &Wqe::new(&oob, &[sge(address, 100)]))?;
    check_eq("offloads", sent.offloads, Offloads::empty())
}

/// A large send: headers of 54 bytes, payload, and segments of `unit` bytes.
struct Large {
    oob: TxShortOob,
    headers: u32,
    payload: u32,
    unit: u16,
    /// The rest of a long OOB, which Linux uses for a tag.
    behind: Option<TxLongOob>,
}

impl Large {
    fn new(vport: &Vport) -> Self {
        let oob = vport
            .oob()
            .with_is_outer_ipv4(true)
            .with_comp_iphdr_csum(true)
            .with_comp_tcp_csum(true)
            .with_trans_off(34);
        Self {
            oob,
            headers: 54,
            payload: 6000,
            unit: 1448,
            behind: None,
        }
    }

    fn wqe(&self, driver: &mut Driver<'_>) -> Outcome<Wqe> {
        let address = driver.pages(17)?;
        let pieces: [Sge; 2] = [
            sge(address, self.headers),
            sge(address + 4096, self.payload),
        ];
        let pieces = if self.payload == 0 {
            &pieces[..1]
        } else {
            &pieces[..]
        };
        let mut wqe = match self.behind {
            Some(behind) => Wqe::new(&long(self.oob, behind), pieces),
            None => Wqe::new(&short(self.oob), pieces),
        };
        wqe.header.set_client_oob_in_sgl(true);
        wqe.header.set_client_data_unit(self.unit);
        wqe.header.set_last_vbytes(self.headers as u8);
        Ok(wqe)
    }
}

fn cut(driver: &mut Driver<'_>, change: impl FnOnce(&mut Large)) -> Outcome<Transmitted> {
    let mut vport = driver.start_and_open()?;
    let mut large = Large::new(&vport);
    change(&mut large);
    let wqe = large.wqe(driver)?;
    vport.send_wqe(driver, &wqe)
}

fn uncut(driver: &mut Driver<'_>, how: CqeType, change: impl FnOnce(&mut Large)) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let mut large = Large::new(&vport);
    change(&mut large);
    let wqe = large.wqe(driver)?;
    vport.fail(driver, &wqe, how)?;
    vport.works(driver)
}

fn cuts_into_segments(driver: &mut Driver<'_>) -> Outcome {
    let sent = cut(driver, |_| {})?;
    let expected = Offloads::IPV4
        | Offloads::IP_CHECKSUM
        | Offloads::TCP_CHECKSUM
        | Offloads::TCP_SEGMENTATION;
    check_eq("offloads", sent.offloads, expected)?;
    check_eq("bytes a segment", sent.segment_size, 1448)?;
    check_eq("offset of the transport header", sent.l4_offset, 34)?;
    check_eq("bytes", sent.frame.len(), 6054)
}

fn cuts_the_longest_packet(driver: &mut Driver<'_>) -> Outcome {
    // 65535 bytes of IP behind 14 of Ethernet and two tags.
    let sent = cut(driver, |large| large.payload = 65535 + 22 - 54)?;
    check_eq("bytes", sent.frame.len(), 65557)
}

fn cuts_with_a_tag(driver: &mut Driver<'_>) -> Outcome {
    let sent = cut(driver, |large| {
        let tag = TxLongOob::new().with_inject_vlan_pri_tag(true);
        large.behind = Some(tag.with_vlan_id(7));
    })?;
    check_eq("tag", sent.vlan_tci, 7)?;
    check_eq("bytes a segment", sent.segment_size, 1448)
}

fn cuts_ipv6(driver: &mut Driver<'_>) -> Outcome {
    let sent = cut(driver, |large| {
        (large.headers, large.unit) = (74, 1428);
        let oob = large.oob.with_is_outer_ipv4(false);
        large.oob = oob.with_is_outer_ipv6(true).with_trans_off(54);
    })?;
    let expected = Offloads::IPV6 | Offloads::TCP_CHECKSUM | Offloads::TCP_SEGMENTATION;
    check_eq("offloads", sent.offloads, expected)
}

fn cuts_without_a_family(driver: &mut Driver<'_>) -> Outcome {
    let sent = cut(driver, |large| {
        large.headers = 58;
        large.oob = large.oob.with_is_outer_ipv4(false).with_trans_off(38);
    })?;
    let expected = Offloads::TCP_CHECKSUM | Offloads::TCP_SEGMENTATION;
    check_eq("offloads", sent.offloads, expected)?;
    check_eq("offset of the transport header", sent.l4_offset, 38)
}

fn cuts_without_being_asked_for_checksums(driver: &mut Driver<'_>) -> Outcome {
    let sent = cut(driver, |large| {
        let oob = large.oob.with_comp_iphdr_csum(false);
        large.oob = oob.with_comp_tcp_csum(false);
    })?;
    let expected = Offloads::IPV4 | Offloads::TCP_CHECKSUM | Offloads::TCP_SEGMENTATION;
    check_eq("offloads", sent.offloads, expected)
}

fn cuts_behind_headers_of_256_bytes(driver: &mut Driver<'_>) -> Outcome {
    // The offset of the TCP header is not given, or is the largest possible.
    for offset in [0, 196] {
        driver.bench.reset();
        let sent = cut(driver, |large| {
            (large.headers, large.unit) = (256, 1000);
            large.oob.set_trans_off(offset);
        })?;
        check_eq("bytes", sent.frame.len(), 6256)?;
    }
    Ok(())
}

fn cuts_behind_the_longest_tcp_header(driver: &mut Driver<'_>) -> Outcome {
    let sent = cut(driver, |large| {
        (large.headers, large.unit) = (34 + 60, 1400);
    })?;
    check_eq("bytes", sent.frame.len(), 6094)
}

fn refuses_to_cut_headers_alone(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxGdmaError, |large| large.payload = 0)
}

fn refuses_headers_of_more_than_256_bytes(driver: &mut Driver<'_>) -> Outcome {
    for offset in [0, 200] {
        driver.bench.reset();
        uncut(driver, CqeType::TxGdmaError, |large| {
            (large.headers, large.unit) = (257, 1000);
            large.oob.set_trans_off(offset);
        })?;
    }
    Ok(())
}

fn refuses_more_than_headers_in_the_first_piece(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxGdmaError, |large| {
        large.headers = 34 + 61;
    })
}

fn refuses_to_cut_into_nothing(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxInvalidOob, |large| large.unit = 0)
}

fn refuses_to_cut_udp(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxInvalidOob, |large| {
        large.oob.set_comp_tcp_csum(false);
        large.oob.set_comp_udp_csum(true);
    })
}

fn refuses_headers_that_end_before_tcp(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxHdrProcessingError, |large| {
        large.headers = 34;
    })
}

fn refuses_segments_that_do_not_fit(driver: &mut Driver<'_>) -> Outcome {
    // The MTU, an Ethernet header and two tags.
    let sent = cut(driver, |large| large.unit = 1500 + 22 - 54)?;
    check_eq("bytes a segment", sent.segment_size, 1468)?;
    driver.bench.reset();
    uncut(driver, CqeType::TxMtuDrop, |large| large.unit = 1469)
}

fn refuses_tagged_segments_that_do_not_fit(driver: &mut Driver<'_>) -> Outcome {
    let tag = TxLongOob::new().with_inject_vlan_pri_tag(true);
    // An inserted tag is one of the two.
    let sent = cut(driver, |large| {
        (large.unit, large.behind) = (1500 + 18 - 54, Some(tag));
    })?;
    check_eq("bytes a segment", sent.segment_size, 1464)?;
    driver.bench.reset();
    uncut(driver, CqeType::TxMtuDrop, |large| {
        (large.unit, large.behind) = (1465, Some(tag));
    })
}

fn refuses_to_cut_more_than_an_ip_packet(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxMtuDrop, |large| {
        large.payload = 65535 + 22 - 54 + 1;
    })
}

fn refuses_to_tag_and_cut_more_than_an_ip_packet(driver: &mut Driver<'_>) -> Outcome {
    uncut(driver, CqeType::TxMtuDrop, |large| {
        let tag = TxLongOob::new().with_inject_vlan_pri_tag(true);
        (large.payload, large.behind) = (65535 + 18 - 54 + 1, Some(tag));
    })
}
