//! Locates the headers of a frame.

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6ExtensionSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice, ip_number,
};

/// Destination, source, EtherType.
pub const ETHERNET_BYTES: usize = 14;
/// An 802.1Q or 802.1ad tag.
pub const TAG_BYTES: usize = 4;
/// Destination and source: the bytes before a tag.
pub const ADDRESS_BYTES: usize = 12;
/// The most tags of a frame, including an inserted one: 802.1ad has two. The device has the same
/// limit.
pub const MAX_TAGS: usize = 2;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Version of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// A transport that has its checksum offloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Transport {
    /// Returns the offset of the checksum in its header.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// Returns the length of its header, without options.
    pub fn header_bytes(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
        }
    }

    /// Returns its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => ip_number::TCP.0,
            Self::Udp => ip_number::UDP.0,
        }
    }

    fn from_number(number: IpNumber) -> Option<Self> {
        match number {
            ip_number::TCP => Some(Self::Tcp),
            ip_number::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

/// The transport header after the IP header and its options or extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportAt {
    /// Which transport.
    pub transport: Transport,
    /// Offset of its header, which may lie beyond the copied bytes.
    pub offset: usize,
}

/// The headers of a frame that holds an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the IP header, which is completely present.
    pub ip: usize,
    /// Its version.
    pub version: IpVersion,
    /// The transport, if it is TCP or UDP and begins in this packet: the packet is no fragment, and
    /// all extension headers are present.
    pub transport: Option<TransportAt>,
    /// The address that the checksum covers is not the one in the IPv6
    /// header: there is a routing header with segments left.
    pub routed: bool,
}

impl Layout {
    /// Locates the headers in the beginning of a frame. Returns None if it isn't IP, or the IP
    /// header is incomplete or invalid.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (ip, ethertype) = network_header(frame)?;
        match ethertype {
            ETHERTYPE_IPV4 => Self::parse_v4(frame, ip),
            ETHERTYPE_IPV6 => Self::parse_v6(frame, ip),
            _ => None,
        }
    }

    fn parse_v4(frame: &[u8], ip: usize) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(frame.get(ip..)?).ok()?;
        let offset = ip + header.slice().len();
        let whole = !header.is_fragmenting_payload();
        let transport = Transport::from_number(header.protocol()).filter(|_| whole);
        Some(Self {
            ip,
            version: IpVersion::V4,
            transport: transport.map(|transport| TransportAt { transport, offset }),
            routed: false,
        })
    }

    fn parse_v6(frame: &[u8], ip: usize) -> Option<Self> {
        let header = Ipv6HeaderSlice::from_slice(frame.get(ip..)?).ok()?;
        let behind = ip + header.slice().len();
        let mut layout = Self {
            ip,
            version: IpVersion::V6,
            transport: None,
            routed: false,
        };
        let parsed = Ipv6ExtensionsSlice::from_slice(header.next_header(), &frame[behind..]);
        let Ok((extensions, number, _)) = parsed else {
            return Some(layout);
        };
        if !extensions.is_fragmenting_payload() {
            let offset = behind + extensions.slice().len();
            let transport = Transport::from_number(number);
            layout.transport = transport.map(|transport| TransportAt { transport, offset });
        }
        layout.routed = extensions.into_iter().any(|e| has_segments_left(&e));
        Some(layout)
    }
}

/// Returns the length of the Ethernet header with up to `most` tags; everything after it is
/// payload, even a further tag. None if it is incomplete.
pub fn link_header_bytes(frame: &[u8], most: usize) -> Option<usize> {
    skip_tags(frame, most).map(|(offset, _)| offset)
}

/// Returns the tag control information of the 802.1Q tag at the beginning of a frame, if there
/// is one (IEEE 802.1Q, table 9-1).
pub fn tag_control(frame: &[u8]) -> Option<u16> {
    match frame.get(ADDRESS_BYTES..ADDRESS_BYTES + TAG_BYTES)? {
        [0x81, 0x00, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// Returns where the tags end, and the EtherType there.
fn network_header(frame: &[u8]) -> Option<(usize, u16)> {
    skip_tags(frame, MAX_TAGS)
}

/// Returns where up to `most` tags end, and the EtherType there.
fn skip_tags(frame: &[u8], most: usize) -> Option<(usize, u16)> {
    let ethertype = |end: usize| {
        let bytes = frame.get(end - 2..end)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let mut end = ETHERNET_BYTES;
    for _ in 0..most {
        if !is_tag(ethertype(end)?) {
            break;
        }
        end += TAG_BYTES;
    }
    Some((end, ethertype(end)?))
}

/// Returns whether it is a tag protocol identifier: 802.1Q, 802.1ad, or 802.1ad's predecessor.
pub fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// Returns whether a routing header has segments left, its fourth byte (RFC 8200, section 4.4).
fn has_segments_left(extension: &Ipv6ExtensionSlice<'_>) -> bool {
    match extension {
        Ipv6ExtensionSlice::Routing(header) => header.slice()[3] != 0,
        _ => false,
    }
}
