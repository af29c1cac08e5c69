//! What accompanies a packet: the transmit OOB and both kinds of completion.
//!
//! Source: `include/net/mana/mana.h`.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `MANA_SHORT_PKT_FMT`.
pub const SHORT_FORMAT: u8 = 0;
/// `MANA_LONG_PKT_FMT`.
pub const LONG_FORMAT: u8 = 1;

/// `struct mana_tx_short_oob`.
#[bitfield(u64)]
pub struct TxShortOob {
    #[bits(2)]
    pub pkt_fmt: u8,
    pub is_outer_ipv4: bool,
    pub is_outer_ipv6: bool,
    pub comp_iphdr_csum: bool,
    pub comp_tcp_csum: bool,
    pub comp_udp_csum: bool,
    /// No completion on success.
    pub suppress_txcqe_gen: bool,
    #[bits(24)]
    pub vcq_num: u32,
    /// Offset of the transport header from the start of the frame, in bytes.
    #[bits(10)]
    pub trans_off: u16,
    /// Bits 10 to 23 of the send queue's id.
    #[bits(14)]
    pub vsq_frame: u16,
    pub short_vp_offset: u8,
}

/// The first 8 bytes of `struct mana_tx_long_oob`; 8 reserved ones follow.
#[bitfield(u64)]
pub struct TxLongOob {
    pub is_encap: bool,
    pub inner_is_ipv6: bool,
    pub inner_tcp_opt: bool,
    pub inject_vlan_pri_tag: bool,
    #[bits(12)]
    __: u16,
    #[bits(3)]
    pub pcp: u8,
    pub dei: bool,
    #[bits(12)]
    pub vlan_id: u16,
    #[bits(10)]
    pub inner_frame_offset: u16,
    #[bits(6)]
    pub inner_ip_rel_offset: u8,
    #[bits(12)]
    pub long_vp_offset: u16,
    #[bits(4)]
    __: u8,
}

/// `enum mana_cqe_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CqeType {
    RxOkay = 1,
    /// Up to four packets.
    RxCoalesced4 = 2,
    RxObjectFence = 3,
    RxTruncated = 4,
    TxOkay = 32,
    TxMtuDrop = 34,
    TxInvalidOob = 35,
    TxHdrProcessingError = 37,
    TxVportIdxOutOfRange = 39,
    TxVportDisabled = 40,
    TxGdmaError = 42,
}

impl CqeType {
    /// Returns the type of a transmit completion with this number.
    pub fn of_transmit(value: u8) -> Option<Self> {
        let all = [
            Self::TxOkay,
            Self::TxMtuDrop,
            Self::TxInvalidOob,
            Self::TxHdrProcessingError,
            Self::TxVportIdxOutOfRange,
            Self::TxVportDisabled,
            Self::TxGdmaError,
        ];
        all.into_iter().find(|cqe_type| *cqe_type as u8 == value)
    }
}

/// `MANA_CQE_COMPLETION`.
pub const CLIENT_COMPLETION: u8 = 1;

/// `struct mana_cqe_header`.
#[bitfield(u32)]
pub struct CqeHeader {
    #[bits(6)]
    pub cqe_type: u8,
    #[bits(2)]
    pub client_type: u8,
    #[bits(24)]
    pub vendor_err: u32,
}

impl CqeHeader {
    /// Returns the header of a completion.
    #[inline]
    pub fn of(cqe_type: CqeType) -> Self {
        Self::from_bits(u32::from(cqe_type as u8) | u32::from(CLIENT_COMPLETION) << 6)
    }
}

/// `struct mana_tx_comp_oob` without its reserved fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TxCompletionOob {
    pub header: u32,
    pub tx_data_offset: u32,
    /// 5 bits of SGL offset, 27 bits of WQE offset in basic units.
    pub offsets: u32,
}

/// What a hash covers (`NDIS_HASH_*`): addresses (`MANA_HASH_L3`), or addresses and
/// ports (`MANA_HASH_L4`).
pub mod hash {
    pub const IPV4: u16 = 1 << 0;
    pub const TCP_IPV4: u16 = 1 << 1;
    pub const UDP_IPV4: u16 = 1 << 2;
    pub const IPV6: u16 = 1 << 3;
    pub const TCP_IPV6: u16 = 1 << 4;
    pub const UDP_IPV6: u16 = 1 << 5;
}

/// Bits of the second word of `struct mana_rxcomp_oob`.
#[bitfield(u32)]
pub struct RxCompletionFlags {
    #[bits(12)]
    pub vlan_id: u16,
    pub vlantag_present: bool,
    pub outer_iphdr_csum_succeed: bool,
    pub outer_iphdr_csum_fail: bool,
    __: bool,
    /// One of [`hash`]; 0 if there is none.
    #[bits(9)]
    pub hashtype: u16,
    pub iphdr_csum_succeed: bool,
    pub iphdr_csum_fail: bool,
    pub tcp_csum_succeed: bool,
    pub tcp_csum_fail: bool,
    pub udp_csum_succeed: bool,
    pub udp_csum_fail: bool,
    __: bool,
}

/// `struct mana_rxcomp_perpkt_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PerPacket {
    pub pkt_len: u16,
    pub reserved1: u16,
    pub reserved2: u32,
    pub pkt_hash: u32,
}

/// The most packets of a completion (`MANA_RXCOMP_OOB_NUM_PPI`).
pub const MOST_PACKETS: usize = 4;

/// `struct mana_rxcomp_oob`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RxCompletionOob {
    pub header: u32,
    pub flags: u32,
    pub packets: [PerPacket; MOST_PACKETS],
    /// Byte offset of the receive WQE.
    pub rx_wqe_offset: u32,
}

impl RxCompletionOob {
    /// Returns the first 16 bytes of a completion of one packet; the rest is zero but
    /// for the last 4, which are `rx_wqe_offset`.
    #[inline]
    pub fn first_words(header: CqeHeader, flags: RxCompletionFlags, length: u16) -> [u64; 2] {
        let first = u64::from(header.into_bits()) | u64::from(flags.into_bits()) << 32;
        [first, length.into()]
    }

    /// Returns the first 56 bytes of a completion of up to [`MOST_PACKETS`] packets: the
    /// length and the hash of each.
    pub fn words_of_many(
        header: CqeHeader,
        flags: RxCompletionFlags,
        packets: impl Iterator<Item = (u16, u32)>,
    ) -> [u64; 7] {
        let mut completion = Self {
            header: header.into_bits(),
            flags: flags.into_bits(),
            packets: [PerPacket::default(); MOST_PACKETS],
            rx_wqe_offset: 0,
        };
        for (place, (pkt_len, pkt_hash)) in completion.packets.iter_mut().zip(packets) {
            (place.pkt_len, place.pkt_hash) = (pkt_len, pkt_hash);
        }
        let (words, _) = completion.as_bytes().as_chunks();
        core::array::from_fn(|index| u64::from_le_bytes(words[index]))
    }

    /// Returns the first 56 bytes of a completion of one packet.
    #[inline]
    pub fn words(header: CqeHeader, flags: RxCompletionFlags, length: u16) -> [u64; 7] {
        let [first, second] = Self::first_words(header, flags, length);
        [first, second, 0, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_receive_completion_are_its_bytes() {
        let (header, flags) = (
            CqeHeader::of(CqeType::RxOkay),
            RxCompletionFlags::new().with_vlan_id(7),
        );
        let per_packet = PerPacket {
            pkt_len: 1514,
            ..PerPacket::default()
        };
        let completion = RxCompletionOob {
            header: header.into_bits(),
            flags: flags.into_bits(),
            packets: [
                per_packet,
                PerPacket::default(),
                PerPacket::default(),
                PerPacket::default(),
            ],
            rx_wqe_offset: 0,
        };
        let words = RxCompletionOob::words(header, flags, 1514);
        assert_eq!(words.as_bytes(), &completion.as_bytes()[..56]);
    }

    #[test]
    fn a_header_is_its_fields() {
        let header = CqeHeader::new()
            .with_cqe_type(CqeType::TxGdmaError as u8)
            .with_client_type(CLIENT_COMPLETION);
        assert_eq!(
            CqeHeader::of(CqeType::TxGdmaError).into_bits(),
            header.into_bits()
        );
    }

    #[test]
    fn sizes_fit_a_completion() {
        assert_eq!(size_of::<RxCompletionOob>(), 60);
        assert_eq!(size_of::<TxCompletionOob>(), 12);
    }

    #[test]
    fn short_oob_matches_the_driver() {
        let oob = TxShortOob::new()
            .with_pkt_fmt(LONG_FORMAT)
            .with_is_outer_ipv4(true)
            .with_comp_tcp_csum(true)
            .with_suppress_txcqe_gen(true)
            .with_vcq_num(5)
            .with_trans_off(34)
            .with_vsq_frame(1)
            .with_short_vp_offset(2);
        let low = 1 | 1 << 2 | 1 << 5 | 1 << 7 | 5 << 8;
        let high = 34 | 1 << 10 | 2 << 24;
        assert_eq!(oob.into_bits(), low | high << 32);
    }

    #[test]
    fn long_oob_matches_the_driver() {
        let oob = TxLongOob::new()
            .with_inject_vlan_pri_tag(true)
            .with_pcp(5)
            .with_dei(true)
            .with_vlan_id(0x123)
            .with_long_vp_offset(9);
        let low: u64 = 1 << 3 | 5 << 16 | 1 << 19 | 0x123 << 20;
        assert_eq!(oob.into_bits(), low | (9u64 << 16) << 32);
    }
}
