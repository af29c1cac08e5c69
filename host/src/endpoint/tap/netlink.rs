//! Messages about interfaces (rtnetlink(7); linux/if_link.h), as far as a TAP needs them.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::OwnedFd;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
pub const NLMSG_ERROR: u16 = 2;

/// Masks the flags out of an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// An interface's attributes take one or two KiB.
pub const MAX_ANSWER: usize = 32 << 10;

/// `struct nlmsghdr`, followed by `struct ifinfomsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LinkMessage {
    pub length: u32,
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
    pub family: u8,
    pub reserved: u8,
    pub device_kind: u16,
    pub index: u32,
    pub device_flags: u32,
    pub change: u32,
}

impl LinkMessage {
    /// Asks for the state of an interface.
    pub fn get(index: u32) -> Self {
        Self {
            length: size_of::<Self>() as u32,
            kind: RTM_GETLINK,
            flags: NLM_F_REQUEST,
            index,
            ..Self::default()
        }
    }
}

/// `struct nlattr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
struct Attribute {
    /// The length in bytes, this header included.
    length: u16,
    kind: u16,
}

/// Returns a netlink socket for interfaces.
pub fn open(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    // Without a protocol it is NETLINK_ROUTE, which has the number 0.
    socket_with(family, kind, flags | SocketFlags::CLOEXEC, None)
}

/// Returns the bytes of the first attribute of this kind.
pub fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = Attribute::read_from_prefix(attributes).ok()?;
        let length = usize::from(header.length);
        let bytes = attributes.get(size_of::<Attribute>()..length)?;
        if header.kind & NLA_TYPE_MASK == kind {
            return Some(bytes);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Returns the number in the first attribute of this kind.
pub fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let bytes = find(attributes, kind)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
