//! Transmit offloads: a guest's requests, checked against the packet's headers and translated
//! to a virtio-net header.

use super::checksum;
use super::head::Head;
use super::headers::{
    ETHERNET_BYTES, IpVersion, Layout, MAX_TAGS, TAG_BYTES, Transport, TransportAt,
    link_header_bytes,
};
use super::packet::{Offloads, TxPacket, TxStatus};
use super::vnet::{GsoType, PartialChecksum, VnetHeader};

/// The smallest segment size. Linux accepts a peer's maximum segment size down to 48 less
/// 40 bytes of options (`TCP_MIN_GSO_SIZE`); a smaller one would only cost the host work.
pub const MIN_SEGMENT_BYTES: u16 = 8;

/// Why a packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// See [`TxStatus::BadHeaders`].
    #[error("the headers do not fit the offloads")]
    BadHeaders,
    /// See [`TxStatus::TooLong`].
    #[error("the frame is longer than the port carries")]
    TooLong,
}

impl From<Refusal> for TxStatus {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadHeaders => Self::BadHeaders,
            Refusal::TooLong => Self::TooLong,
        }
    }
}

/// The requested offloads, free of contradictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The IP version that the guest claims.
    version: Option<IpVersion>,
    /// The offset of the transport header that the guest claims.
    transport_offset: Option<usize>,
    ip_checksum: bool,
    /// The checksum to fill in; TCP if it is to be segmented.
    transport: Option<Transport>,
    segment_size: Option<u16>,
    vlan_tci: Option<u16>,
}

/// The result of a [`Request`]: the head is patched, and this is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The virtio-net header.
    pub vnet: VnetHeader,
    /// How much of the guest's frame is sent, including the head but not an inserted tag: all of
    /// it, without padding after the IP packet.
    pub length: usize,
}

impl Request {
    /// Reads the offloads of a packet.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadHeaders`] if they contradict each other.
    pub fn of(packet: &TxPacket) -> Result<Self, Refusal> {
        let asked = |flag| packet.offloads.contains(flag);
        let segment = asked(Offloads::TCP_SEGMENTATION);
        let tcp = asked(Offloads::TCP_CHECKSUM) || segment;
        Ok(Self {
            version: one_of(
                asked(Offloads::IPV4).then_some(IpVersion::V4),
                asked(Offloads::IPV6).then_some(IpVersion::V6),
            )?,
            transport_offset: (packet.l4_offset != 0).then_some(packet.l4_offset.into()),
            ip_checksum: asked(Offloads::IP_CHECKSUM),
            transport: one_of(
                tcp.then_some(Transport::Tcp),
                asked(Offloads::UDP_CHECKSUM).then_some(Transport::Udp),
            )?,
            segment_size: segment.then_some(packet.segment_size),
            vlan_tci: asked(Offloads::INSERT_VLAN).then_some(packet.vlan_tci),
        })
    }

    /// Returns whether a tag is asked for.
    pub fn inserts_tag(&self) -> bool {
        self.vlan_tci.is_some()
    }

    /// Returns how many tags the frame may have, so that there are at most [`MAX_TAGS`] with an
    /// inserted one.
    fn most_tags(&self) -> usize {
        MAX_TAGS - usize::from(self.inserts_tag())
    }

    fn is_about_headers(&self) -> bool {
        self.ip_checksum || self.transport.is_some()
    }

    /// Locates the headers and compares them with the guest's claims.
    fn locate(&self, frame: &[u8]) -> Option<Layout> {
        let layout = Layout::parse(frame)?;
        let fits = self.version.is_none_or(|said| said == layout.version);
        fits.then_some(layout)
    }

    /// Returns the transport header, if it is the claimed one.
    fn transport_in(&self, layout: &Layout) -> Option<TransportAt> {
        let at = layout.transport?;
        let offset_fits = self.transport_offset.is_none_or(|said| said == at.offset);
        (Some(at.transport) == self.transport && offset_fits && !layout.routed).then_some(at)
    }
}

/// Checks the headers in `head`, the beginning of a frame of `length` bytes,
/// and patches them.
///
/// # Errors
///
/// A [`Refusal`]; `head` may be patched in part then.
pub fn prepare<const SIZE: usize>(
    request: &Request,
    head: &mut Head<SIZE>,
    length: usize,
    mtu: usize,
) -> Result<Prepared, Refusal> {
    let mut prepared = match request.segment_size {
        Some(size) => segmented(request, head.bytes_mut(), length, mtu, size)?,
        None => {
            check_length(request, head.bytes(), length, mtu)?;
            whole(request, head.bytes_mut(), length)?
        }
    };
    head.truncate(prepared.length);
    if let Some(tci) = request.vlan_tci {
        head.insert_tag(tci);
        prepared.vnet = prepared.vnet.behind(TAG_BYTES as u16);
    }
    Ok(prepared)
}

/// Checks a frame's length, given its beginning: the part after the Ethernet header and its tags
/// may be as long as the MTU.
///
/// # Errors
///
/// A [`Refusal`] if it is too long, or shorter than its own header.
fn check_length(request: &Request, frame: &[u8], length: usize, mtu: usize) -> Result<(), Refusal> {
    if length < ETHERNET_BYTES {
        return Err(Refusal::BadHeaders);
    }
    // A frame that ends inside its tags is short enough.
    let link = link_header_bytes(frame, request.most_tags()).unwrap_or(length);
    if length - link.min(length) > mtu {
        return Err(Refusal::TooLong);
    }
    Ok(())
}

/// Prepares a packet that is sent in one piece.
fn whole(request: &Request, frame: &mut [u8], length: usize) -> Result<Prepared, Refusal> {
    let mut prepared = Prepared {
        vnet: VnetHeader::default(),
        length,
    };
    if !request.is_about_headers() {
        return Ok(prepared);
    }
    let layout = request.locate(frame).ok_or(Refusal::BadHeaders)?;
    if request.transport.is_some() {
        let at = request.transport_in(&layout).ok_or(Refusal::BadHeaders)?;
        // The checksum covers the frame to its end, so padding must be cut off.
        prepared.length = packet_end(frame, &layout);
        if prepared.length > length {
            return Err(Refusal::BadHeaders);
        }
        prepared.vnet.partial = Some(seed_checksum(frame, &layout, at, prepared.length)?);
    }
    if request.ip_checksum {
        fill_ip_checksum(frame, &layout)?;
    }
    Ok(prepared)
}

/// Prepares a packet that is cut into TCP segments of `size` payload bytes.
fn segmented(
    request: &Request,
    frame: &mut [u8],
    length: usize,
    mtu: usize,
    size: u16,
) -> Result<Prepared, Refusal> {
    let layout = request.locate(frame).ok_or(Refusal::BadHeaders)?;
    let at = request.transport_in(&layout).ok_or(Refusal::BadHeaders)?;
    let tcp = TcpHeader::find(frame, at.offset).ok_or(Refusal::BadHeaders)?;
    let payload = length.checked_sub(tcp.end).ok_or(Refusal::BadHeaders)?;
    if size < MIN_SEGMENT_BYTES {
        return Err(Refusal::BadHeaders);
    }
    let link = link_header_bytes(frame, request.most_tags()).unwrap_or(layout.ip);
    if tcp.end - link + payload.min(size.into()) > mtu {
        return Err(Refusal::TooLong);
    }
    write_length(frame, &layout, length)?;
    fill_ip_checksum(frame, &layout)?;
    let mut vnet = VnetHeader {
        partial: Some(seed_checksum(frame, &layout, at, length)?),
        ..VnetHeader::default()
    };
    // Linux refuses to cut a packet into a single segment.
    if payload > size.into() {
        vnet.gso = match layout.version {
            IpVersion::V4 => GsoType::TcpV4,
            IpVersion::V6 => GsoType::TcpV6,
        };
        vnet.ecn = tcp.cwr;
        vnet.header_length = tcp.end as u16;
        vnet.segment_size = size;
    }
    Ok(Prepared { vnet, length })
}

/// The fields of a TCP header that segmentation needs.
struct TcpHeader {
    /// Where it ends, from the start of the frame.
    end: usize,
    cwr: bool,
}

impl TcpHeader {
    fn find(frame: &[u8], offset: usize) -> Option<Self> {
        let header = etherparse::TcpHeaderSlice::from_slice(frame.get(offset..)?).ok()?;
        Some(Self {
            end: offset + header.slice().len(),
            cwr: header.cwr(),
        })
    }
}

/// Returns the end of the IP packet according to its header. The frame has a whole IP header.
fn packet_end(frame: &[u8], layout: &Layout) -> usize {
    let field = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match layout.version {
        IpVersion::V4 => layout.ip + field(layout.ip + 2),
        IpVersion::V6 => layout.ip + IPV6_HEADER_BYTES + field(layout.ip + 4),
    }
}

const IPV6_HEADER_BYTES: usize = 40;

/// Writes the IP header's length field for a packet that ends at `end`.
fn write_length(frame: &mut [u8], layout: &Layout, end: usize) -> Result<(), Refusal> {
    let (field, counted) = match layout.version {
        IpVersion::V4 => (layout.ip + 2, end - layout.ip),
        IpVersion::V6 => (layout.ip + 4, end - layout.ip - IPV6_HEADER_BYTES),
    };
    let length = u16::try_from(counted).map_err(|_| Refusal::TooLong)?;
    frame[field..field + 2].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Writes the pseudo header's sum to the checksum field of a packet that ends at `end`, and
/// returns where that is.
fn seed_checksum(
    frame: &mut [u8],
    layout: &Layout,
    at: TransportAt,
    end: usize,
) -> Result<PartialChecksum, Refusal> {
    let TransportAt { transport, offset } = at;
    let length = end
        .checked_sub(offset)
        .filter(|length| *length >= transport.header_bytes())
        .and_then(|length| u16::try_from(length).ok())
        .ok_or(Refusal::BadHeaders)?;
    let header = frame.get(offset..offset + transport.header_bytes());
    let header = header.ok_or(Refusal::BadHeaders)?;
    // The pseudo header of UDP has the length from the UDP header.
    if transport == Transport::Udp && header[4..6] != length.to_be_bytes() {
        return Err(Refusal::BadHeaders);
    }
    let sum = checksum::pseudo_header(layout.version, &frame[layout.ip..], transport, length);
    let field = offset + transport.checksum_offset();
    frame[field..field + 2].copy_from_slice(&sum);
    Ok(PartialChecksum {
        start: offset as u16,
        offset: transport.checksum_offset() as u16,
    })
}

/// Writes an IPv4 header's checksum. IPv6 has none; Linux's mana driver asks
/// for it with every packet to be segmented, whatever its version.
fn fill_ip_checksum(frame: &mut [u8], layout: &Layout) -> Result<(), Refusal> {
    if layout.version == IpVersion::V6 {
        return Ok(());
    }
    let end = layout.ip + usize::from(frame[layout.ip] & 0xf) * 4;
    let header = frame.get_mut(layout.ip..end).ok_or(Refusal::BadHeaders)?;
    let sum = checksum::ipv4_header(header);
    header[10..12].copy_from_slice(&sum);
    Ok(())
}

/// Returns the only one of two; fails if both are there.
fn one_of<T>(a: Option<T>, b: Option<T>) -> Result<Option<T>, Refusal> {
    match (a, b) {
        (Some(_), Some(_)) => Err(Refusal::BadHeaders),
        (a, b) => Ok(a.or(b)),
    }
}

#[cfg(test)]
mod tests;
