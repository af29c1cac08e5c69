//! Cuts a packet into TCP segments, for endpoints whose other side does not.

use super::checksum;
use super::headers::{IpVersion, Layout, Transport};
use super::vnet::VnetHeader;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const IPV6_HEADER_BYTES: usize = 40;

/// The offsets of the headers of all segments.
#[derive(Clone, Copy, Debug)]
struct Headers {
    layout: Layout,
    /// Where the TCP header is.
    tcp: usize,
}

/// Cuts a frame that [`prepare`](super::offload::prepare) left, with the work that is left in
/// `vnet`, into segments, each of which is a whole frame. They are appended to `out`, each after
/// what `begin` writes for a frame of this length. Returns None if the headers are not those of a
/// TCP packet, which `prepare` refuses.
pub fn cut(
    frame: &[u8],
    vnet: &VnetHeader,
    out: &mut Vec<u8>,
    begin: impl Fn(&mut Vec<u8>, usize),
) -> Option<()> {
    let (bytes, payload) = frame.split_at_checked(vnet.header_length.into())?;
    let layout = Layout::parse(bytes)?;
    let tcp = layout
        .transport
        .filter(|at| at.transport == Transport::Tcp)?;
    let headers = Headers {
        layout,
        tcp: tcp.offset,
    };
    let size = usize::from(vnet.segment_size).max(1);
    let last = payload.len().div_ceil(size).checked_sub(1)?;
    for (index, part) in payload.chunks(size).enumerate() {
        begin(out, bytes.len() + part.len());
        let at = out.len();
        out.extend_from_slice(bytes);
        out.extend_from_slice(part);
        headers.finish(&mut out[at..], index, index * size, index == last)?;
    }
    Some(())
}

impl Headers {
    /// Fixes the headers of the segment with this index, whose payload begins there.
    fn finish(self, segment: &mut [u8], index: usize, start: usize, last: bool) -> Option<()> {
        let Self { layout, tcp } = self;
        let ip = layout.ip;
        let end = segment.len();
        match layout.version {
            IpVersion::V4 => {
                let length = u16::try_from(end - ip).ok()?;
                put(segment, ip + 2, length);
                // Each is a packet with an id of its own (RFC 6864 permits equal ones; Linux counts).
                let id = get(segment, ip + 4).wrapping_add(index as u16);
                put(segment, ip + 4, id);
                let header = ip..ip + usize::from(segment[ip] & 0xf) * 4;
                let sum = checksum::ipv4_header(segment.get(header)?);
                segment[ip + 10..ip + 12].copy_from_slice(&sum);
            }
            IpVersion::V6 => {
                let length = u16::try_from(end - ip - IPV6_HEADER_BYTES).ok()?;
                put(segment, ip + 4, length);
            }
        }
        let sequence = segment.get(tcp + 4..tcp + 8)?.try_into().ok()?;
        let sequence = u32::from_be_bytes(sequence).wrapping_add(start as u32);
        segment[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        let flags = segment.get_mut(tcp + 13)?;
        if !last {
            *flags &= !(FIN | PSH);
        }
        // RFC 3168, 6.1.2: the window is reduced once.
        if index > 0 {
            *flags &= !CWR;
        }
        let length = u16::try_from(end - tcp).ok()?;
        let seed = checksum::pseudo_header(layout.version, &segment[ip..], Transport::Tcp, length);
        let field = tcp + Transport::Tcp.checksum_offset();
        segment.get_mut(field..field + 2)?.copy_from_slice(&seed);
        let sum = checksum::of(&segment[tcp..]);
        segment[field..field + 2].copy_from_slice(&sum);
        Some(())
    }
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::head::Head;
    use crate::endpoint::offload::{MIN_SEGMENT_BYTES, Request, prepare};
    use crate::endpoint::testing::{Guest, Sample, TX_AREA, samples};
    use crate::endpoint::vnet::GsoType;
    use crate::memory::Span;
    use crate::memory::tests::segment;

    /// Segments a packet as an endpoint does. Returns None if it needs no segmentation.
    fn segments(sample: &Sample, size: u16) -> Option<Vec<Vec<u8>>> {
        let guest = Guest::new();
        let frame = sample.unsegmented();
        let lies = [segment(TX_AREA, frame.len() as u32)];
        Span::new(lies).write(&guest.memory, &frame).unwrap();
        let mut head: Head = Head::default();
        head.load(&guest.memory, lies).unwrap();
        let request = Request::of(&sample.segmentation_offload(size)).unwrap();
        let prepared = prepare(&request, &mut head, frame.len(), 9000).unwrap();
        if prepared.vnet.gso == GsoType::None {
            return None;
        }
        let whole = [head.bytes(), &frame[head.copied()..]].concat();
        let (mut out, lengths) = (Vec::new(), std::cell::RefCell::new(Vec::new()));
        cut(&whole, &prepared.vnet, &mut out, |_, length| {
            lengths.borrow_mut().push(length);
        })?;
        let mut rest = &out[..];
        let take = |length| {
            let (own, later) = rest.split_at(length);
            rest = later;
            own.to_vec()
        };
        let all = lengths.into_inner().into_iter().map(take).collect();
        Some(all)
    }

    proptest! {
        #[test]
        fn segments_are_those_that_tcp_would_have_sent(
            sample in samples(),
            size in MIN_SEGMENT_BYTES..1500,
        ) {
            let sample = Sample { transport: Transport::Tcp, ..sample };
            let length = sample.payload.len();
            let step = usize::from(size);
            let starts = (0..length).step_by(step);
            let expected: Vec<_> = starts
                .map(|start| sample.segment_of(start, step.min(length - start), step))
                .collect();
            match segments(&sample, size) {
                Some(found) => prop_assert_eq!(found, expected),
                None => prop_assert!(length <= step),
            }
        }

        #[test]
        fn what_is_no_packet_ends(
            frame in prop::collection::vec(any::<u8>(), 0..200),
            header_length in any::<u16>(),
            segment_size in any::<u16>(),
        ) {
            let vnet = VnetHeader { header_length, segment_size, ..VnetHeader::default() };
            let _ = cut(&frame, &vnet, &mut Vec::new(), |_, _| ());
        }
    }
}
