//! The virtio-net header, which describes the offloads left to do.

/// Length of the header on the wire: `struct virtio_net_hdr` without
/// `num_buffers`, which means nothing on a TAP.
pub const VNET_HEADER_BYTES: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: sum from `csum_start` to the end.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum was found right.
const DATA_VALID: u8 = 2;

/// How to segment a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum GsoType {
    /// Not at all.
    #[default]
    None = 0,
    /// TCP segments over IPv4.
    TcpV4 = 1,
    /// TCP segments over IPv6.
    TcpV6 = 4,
}

/// `VIRTIO_NET_HDR_GSO_ECN`: the TCP header has CWR set.
const GSO_ECN: u8 = 0x80;

/// A checksum that is still to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// The offset of the first byte to sum, from the start of the frame.
    pub start: u16,
    /// Where the checksum goes, from `start`. The sum of the pseudo header is
    /// there already.
    pub offset: u16,
}

/// `struct virtio_net_hdr` (virtio 1.2, section 5.1.6; linux/virtio_net.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum that is left to do, if any.
    pub partial: Option<PartialChecksum>,
    /// The TCP or UDP checksum was verified on the way here.
    pub data_valid: bool,
    /// How to segment.
    pub gso: GsoType,
    /// CWR is set: only the first segment is to have it (RFC 3168, 6.1.2).
    pub ecn: bool,
    /// Length of all headers, for `gso`.
    pub header_length: u16,
    /// TCP payload bytes a segment, for `gso`.
    pub segment_size: u16,
}

impl VnetHeader {
    /// Returns the bytes that the TAP takes: little-endian, by `TUNSETVNETLE`.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_BYTES] {
        let mut bytes = [0; VNET_HEADER_BYTES];
        let mut put = |at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        };
        put(2, self.header_length);
        put(4, self.segment_size);
        if let Some(partial) = self.partial {
            put(6, partial.start);
            put(8, partial.offset);
            bytes[0] |= NEEDS_CSUM;
        }
        if self.data_valid {
            bytes[0] |= DATA_VALID;
        }
        bytes[1] = self.gso as u8 | if self.ecn { GSO_ECN } else { 0 };
        bytes
    }

    /// Moves the offsets by `bytes`: a tag was inserted before them.
    pub fn behind(mut self, bytes: u16) -> Self {
        if let Some(partial) = &mut self.partial {
            partial.start += bytes;
        }
        if self.gso != GsoType::None {
            self.header_length += bytes;
        }
        self
    }

    /// Parses a TAP's header of a received packet. The segmentation fields stay empty, because that
    /// offload is not enabled.
    pub fn received(bytes: &[u8; VNET_HEADER_BYTES]) -> Self {
        let get = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let partial = (bytes[0] & NEEDS_CSUM != 0).then(|| PartialChecksum {
            start: get(6),
            offset: get(8),
        });
        Self {
            partial,
            data_valid: bytes[0] & DATA_VALID != 0,
            ..Self::default()
        }
    }
}
