//! Frames and guests for the endpoints' tests.

use etherparse::{
    EtherType, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, SingleVlanHeader, TcpHeader, VlanHeader, VlanId,
};
use proptest::prelude::*;

use super::RxBuffer;
use super::headers::{IpVersion, Layout, Transport};
use super::{
    Completions, Offloads, Policy, Queue, QueueIo, QueueSet, RxPacket, RxQueue, TxBatch, TxPacket,
    TxStatus,
};
use crate::memory::tests::{LARGE, guest_memory, segment};
use crate::memory::{GuestMemory, Segment, Span};

/// A frame as a network stack would build it.
#[derive(Clone, Debug)]
pub struct Sample {
    pub version: IpVersion,
    pub transport: Transport,
    pub tags: usize,
    /// Bytes of IPv4 options, or of the content of an IPv6 extension header;
    /// in multiples of four.
    pub ip_options: usize,
    /// Bytes of TCP options, in multiples of four.
    pub tcp_options: usize,
    pub cwr: bool,
    pub payload: Vec<u8>,
}

impl Sample {
    pub fn new(version: IpVersion, transport: Transport, payload: usize) -> Self {
        Self {
            version,
            transport,
            tags: 0,
            ip_options: 0,
            tcp_options: 0,
            cwr: false,
            payload: (0..payload).map(|i| (i * 31 + i / 256) as u8).collect(),
        }
    }

    /// Returns the frame, all lengths and checksums right.
    pub fn frame(&self) -> Vec<u8> {
        self.segment_of(0, self.payload.len(), 0)
    }

    /// Returns the frame that carries `length` payload bytes from `start`, as if
    /// TCP had cut the payload into parts of `size`.
    pub fn segment_of(&self, start: usize, length: usize, size: usize) -> Vec<u8> {
        let index = start.checked_div(size).unwrap_or(0);
        let last = start + length == self.payload.len();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let tag = |id: u16, inner| SingleVlanHeader {
            pcp: 5.try_into().unwrap(),
            drop_eligible_indicator: false,
            vlan_id: VlanId::try_new(id).unwrap(),
            ether_type: inner,
        };
        let ip = self.ip(index as u16);
        let step = match self.tags {
            0 => ethernet.ip(ip),
            1 => ethernet
                .vlan(VlanHeader::Single(tag(5, EtherType::IPV4)))
                .ip(ip),
            _ => ethernet
                .vlan(VlanHeader::Double(etherparse::DoubleVlanHeader {
                    outer: tag(6, EtherType::VLAN_TAGGED_FRAME),
                    inner: tag(5, EtherType::IPV4),
                }))
                .ip(ip),
        };
        let payload = &self.payload[start..start + length];
        let mut frame = Vec::new();
        match self.transport {
            Transport::Udp => step.udp(1000, 2000).write(&mut frame, payload).unwrap(),
            Transport::Tcp => {
                let mut header = TcpHeader::new(1000, 2000, 7_000 + start as u32, 512);
                header.ack = true;
                header.psh = last;
                header.cwr = self.cwr && start == 0;
                header.set_options_raw(&vec![1; self.tcp_options]).unwrap();
                step.tcp_header(header).write(&mut frame, payload).unwrap();
            }
        }
        self.mangle_zero(&mut frame);
        frame
    }

    /// A TCP checksum of zero is written as all ones by Linux, and so by us.
    fn mangle_zero(&self, frame: &mut [u8]) {
        let at = Layout::parse(frame).unwrap().transport.unwrap();
        let field = at.offset + at.transport.checksum_offset();
        if frame[field..field + 2] == [0, 0] {
            frame[field..field + 2].fill(0xff);
        }
    }

    fn ip(&self, index: u16) -> IpHeaders {
        match self.version {
            IpVersion::V4 => {
                let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
                let mut header = Ipv4Header::new(0, 64, IpNumber(0), source, destination).unwrap();
                header.identification = 100 + index;
                header.options = Ipv4Options::try_from(&vec![1; self.ip_options][..]).unwrap();
                IpHeaders::Ipv4(header, Default::default())
            }
            IpVersion::V6 => {
                let header = Ipv6Header {
                    hop_limit: 64,
                    source: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                    destination: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
                    ..Default::default()
                };
                IpHeaders::Ipv6(header, self.extensions())
            }
        }
    }

    fn extensions(&self) -> Ipv6Extensions {
        if self.ip_options == 0 {
            return Ipv6Extensions::default();
        }
        // One option of padding (PadN) that fills the whole header.
        let length = self.ip_options.div_ceil(8) * 8 + 6;
        let mut options = vec![0; length];
        options[0] = 1;
        options[1] = (length - 2) as u8;
        let header = Ipv6RawExtHeader::new_raw(IpNumber(0), &options).unwrap();
        Ipv6Extensions {
            destination_options: Some(header),
            ..Default::default()
        }
    }

    /// Returns where the transport header is.
    pub fn transport_offset(&self) -> usize {
        Layout::parse(&self.frame())
            .unwrap()
            .transport
            .unwrap()
            .offset
    }

    /// Returns the frame as a guest hands it over that leaves the checksum to others.
    pub fn without_checksum(&self) -> Vec<u8> {
        let mut frame = self.frame();
        let field = self.transport_offset() + self.transport.checksum_offset();
        frame[field..field + 2].copy_from_slice(b"??");
        frame
    }

    /// Returns the frame as a guest hands it over to be segmented: neither lengths
    /// nor checksums are right.
    pub fn unsegmented(&self) -> Vec<u8> {
        let mut frame = self.without_checksum();
        let ip = Layout::parse(&frame).unwrap().ip;
        match self.version {
            IpVersion::V4 => {
                frame[ip + 2..ip + 4].fill(0);
                frame[ip + 10..ip + 12].copy_from_slice(b"??");
            }
            IpVersion::V6 => frame[ip + 4..ip + 6].fill(0),
        }
        frame
    }

    /// Returns what asks for its transport checksum.
    pub fn checksum_offload(&self) -> TxPacket {
        let transport = match self.transport {
            Transport::Tcp => Offloads::TCP_CHECKSUM,
            Transport::Udp => Offloads::UDP_CHECKSUM,
        };
        asking(transport | self.version_flag(), self.transport_offset())
    }

    /// Returns what asks for it to be segmented.
    pub fn segmentation_offload(&self, size: u16) -> TxPacket {
        let offloads = Offloads::TCP_SEGMENTATION | Offloads::IP_CHECKSUM | self.version_flag();
        TxPacket {
            segment_size: size,
            ..asking(offloads, self.transport_offset())
        }
    }

    fn version_flag(&self) -> Offloads {
        match self.version {
            IpVersion::V4 => Offloads::IPV4,
            IpVersion::V6 => Offloads::IPV6,
        }
    }
}

/// Returns a packet of one segment.
pub fn asking(offloads: Offloads, l4_offset: usize) -> TxPacket {
    TxPacket {
        id: 0,
        segments: 1,
        l4_offset: l4_offset as u16,
        segment_size: 0,
        vlan_tci: 0,
        offloads,
    }
}

/// Returns a packet that asks for nothing.
pub fn plain() -> TxPacket {
    asking(Offloads::empty(), 0)
}

/// Returns the same packet with a tag to insert.
pub fn tagged(packet: TxPacket, vlan_tci: u16) -> TxPacket {
    TxPacket {
        offloads: packet.offloads | Offloads::INSERT_VLAN,
        vlan_tci,
        ..packet
    }
}

/// Creates a frame with a tag inserted.
pub fn with_tag(frame: &[u8], tci: u16) -> Vec<u8> {
    let tag = [0x81, 0, (tci >> 8) as u8, tci as u8];
    [&frame[..12], &tag, &frame[12..]].concat()
}

/// Lists every combination of version and transport.
pub fn kinds() -> impl Iterator<Item = (IpVersion, Transport)> {
    let versions = [IpVersion::V4, IpVersion::V6];
    versions
        .into_iter()
        .flat_map(|version| [(version, Transport::Tcp), (version, Transport::Udp)])
}

/// Frames of all kinds.
pub fn samples() -> impl Strategy<Value = Sample> {
    let version = prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)];
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let payload = prop::collection::vec(any::<u8>(), 0..1200);
    let options = (0usize..=10, 0usize..=10);
    (
        version,
        transport,
        0usize..=2,
        options,
        any::<bool>(),
        payload,
    )
        .prop_map(
            |(version, transport, tags, (ip_options, tcp_options), cwr, payload)| Sample {
                version,
                transport,
                tags,
                ip_options: ip_options * 4,
                tcp_options: tcp_options * 4,
                cwr,
                payload,
            },
        )
}

/// The guest's side of a port.
#[derive(Debug)]
pub struct Guest {
    pub memory: GuestMemory,
    pub rx: RxQueue,
    pub done: Completions,
    pub woken: QueueSet,
    pub policy: Option<Policy>,
    next_id: u32,
}

/// Where packets to transmit are put.
pub const TX_AREA: u64 = LARGE;
/// Where receive buffers of [`Guest::post`] are.
const RX_AREA: u64 = LARGE + (128 << 10);
/// Room of each.
const RX_ROOM: u64 = 2048;

impl Guest {
    pub fn new() -> Self {
        Self {
            memory: guest_memory(),
            rx: RxQueue::new(),
            done: Completions::default(),
            woken: QueueSet::default(),
            policy: None,
            next_id: 0,
        }
    }

    /// Returns what an endpoint works on.
    pub fn io(&mut self) -> QueueIo<'_> {
        QueueIo {
            memory: &self.memory,
            rx: &mut self.rx,
            done: &mut self.done,
            woken: &mut self.woken,
            policy: self.policy.as_ref(),
        }
    }

    /// Transmits a frame that lies in one piece.
    pub fn send(&mut self, to: &mut dyn Queue, frame: &[u8], packet: TxPacket) -> TxStatus {
        let length = frame.len() as u32;
        self.send_cut(to, frame, packet, &[segment(TX_AREA, length)])
    }

    /// Transmits a frame that lies in these segments.
    pub fn send_cut(
        &mut self,
        to: &mut dyn Queue,
        frame: &[u8],
        packet: TxPacket,
        segments: &[Segment],
    ) -> TxStatus {
        // Memory that can't be written holds what it holds.
        let _ = Span::new(segments.iter().copied()).write(&self.memory, frame);
        let packets = [TxPacket {
            segments: segments.len() as u16,
            ..packet
        }];
        let mut status = Vec::new();
        let batch = TxBatch::new(&packets, segments).unwrap();
        to.transmit(&mut self.io(), batch, &mut status);
        assert_eq!(status.len(), 1);
        status[0]
    }

    /// Posts a buffer that lies in these segments; returns its id.
    pub fn post_cut(&mut self, segments: &[Segment]) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let buffers = [RxBuffer {
            id,
            segments: segments.len() as u16,
        }];
        assert_eq!(self.rx.post(&buffers, segments), Some(1));
        id
    }

    /// Posts a buffer of 2 KiB; they are reused in turn.
    pub fn post(&mut self) -> u32 {
        let at = RX_AREA + u64::from(self.next_id % 32) * RX_ROOM;
        self.post_cut(&[segment(at, RX_ROOM as u32)])
    }

    /// Returns what lies in a buffer of [`post`](Self::post).
    pub fn content(&self, packet: &RxPacket) -> Vec<u8> {
        let at = RX_AREA + u64::from(packet.id % 32) * RX_ROOM;
        let mut frame = vec![0; packet.length as usize];
        self.memory.read(at, &mut frame).unwrap();
        frame
    }

    /// Returns what was received since the last call.
    pub fn received(&mut self) -> Vec<RxPacket> {
        std::mem::take(&mut self.done.received)
    }
}
