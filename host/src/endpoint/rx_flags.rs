//! Determines the [`RxFlags`] of a received packet from its headers.

use super::checksum;
use super::headers::{IpVersion, Layout, Transport};
use super::packet::RxFlags;

/// How much of a received frame is parsed: the headers of all packets but IPv6 packets with many
/// extensions.
pub const LOOK_BYTES: usize = 128;

/// Returns the flags by the beginning of a frame: protocols, and whether the IP header's
/// checksum is right. The transport's checksum is not checked.
pub fn classify(frame: &[u8], layout: Option<&Layout>) -> RxFlags {
    let mut flags = group(frame);
    let Some(layout) = layout else {
        return flags;
    };
    flags |= match layout.version {
        IpVersion::V4 => RxFlags::IPV4 | ipv4_checksum(frame, layout),
        IpVersion::V6 => RxFlags::IPV6 | RxFlags::IP_CHECKSUM_GOOD,
    };
    match layout.transport.map(|at| at.transport) {
        Some(Transport::Tcp) => flags |= RxFlags::TCP,
        Some(Transport::Udp) => flags |= RxFlags::UDP,
        None => {}
    }
    flags
}

/// Returns the flag of a group address.
fn group(frame: &[u8]) -> RxFlags {
    match frame.get(..6) {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => RxFlags::BROADCAST,
        Some([first, ..]) if first & 1 != 0 => RxFlags::MULTICAST,
        _ => RxFlags::empty(),
    }
}

/// Returns the frame's flags once its transport checksum is known to be right. Only
/// TCP's and UDP's are reported.
pub fn with_good_transport_checksum(flags: RxFlags) -> RxFlags {
    if flags.intersects(RxFlags::TCP | RxFlags::UDP) {
        flags | RxFlags::L4_CHECKSUM_GOOD
    } else {
        flags
    }
}

fn ipv4_checksum(frame: &[u8], layout: &Layout) -> RxFlags {
    let end = layout.ip + usize::from(frame[layout.ip] & 0xf) * 4;
    match frame.get(layout.ip..end) {
        Some(header) if checksum::is_good(header) => RxFlags::IP_CHECKSUM_GOOD,
        _ => RxFlags::IP_CHECKSUM_BAD,
    }
}

#[cfg(test)]
mod tests;
